//! Sequence numbers of one publisher at one receiver: what is missing, came twice, or came late.

/// What was seen so far; one bit a message.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    seen: Vec<u64>,
    next: u64,
    /// Different messages received.
    pub(crate) unique: u64,
    /// Messages received again.
    pub(crate) duplicated: u64,
    /// Messages received after a later one.
    pub(crate) reordered: u64,
}

impl Sequence {
    /// Message `number` came, counted from 0.
    pub(crate) fn receive(&mut self, number: u64) {
        let (word, bit) = ((number / 64) as usize, 1_u64 << (number % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.duplicated += 1;
            return;
        }
        self.seen[word] |= bit;
        self.unique += 1;
        if number < self.next {
            self.reordered += 1;
        }
        self.next = self.next.max(number + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_ones_and_second_ones_are_told_apart() {
        let mut sequence = Sequence::default();
        for number in [0, 1, 5, 3, 5, 3, 200, 2] {
            sequence.receive(number);
        }
        assert_eq!(
            (sequence.unique, sequence.duplicated, sequence.reordered),
            (6, 2, 2)
        );
    }
}
