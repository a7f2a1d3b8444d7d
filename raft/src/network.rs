//! openraft's way to other nodes, over ours.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use meridian_proto::raft::v1;
use openraft::OptionalSend;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::entry::RaftEntry as _;
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::sync::mpsc;

use crate::codec::{self, Id, Types, messages};
use crate::snapshot::{self, Piece, SnapshotData};
use crate::storage::Storage;
use crate::transport::{Answer, Lane, Link, Transport, random};

/// Append messages on their way to one follower of one group.
const APPENDS_INFLIGHT_MAX: usize = 32;
/// The same in bytes of commands; one message may be larger.
const APPENDS_INFLIGHT_BYTES_MAX: usize = 16 << 20;
/// A follower that does not answer an append for so long is asked anew. A dead one is found by the transport before.
const APPEND_MAX: Duration = Duration::from_secs(5);

/// Chunks of a snapshot on their way.
const CHUNKS_INFLIGHT_MAX: usize = 4;
/// A follower may take so long to write a chunk.
const CHUNK_MAX: Duration = Duration::from_secs(60);
/// And so long to install a whole snapshot.
const INSTALL_MAX: Duration = Duration::from_secs(30 * 60);

/// Makes the ways from this group to its members.
pub(crate) struct Network {
    pub(crate) group: Arc<str>,
    pub(crate) storage: Storage,
    pub(crate) transport: Transport,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Member;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Member {
        self.transport.learn_peer(target, &node.addr);
        Member {
            group: Arc::clone(&self.group),
            storage: self.storage.clone(),
            target,
            transport: self.transport.clone(),
        }
    }
}

/// A member of the group on another node.
pub(crate) struct Member {
    group: Arc<str>,
    storage: Storage,
    target: u64,
    transport: Transport,
}

impl Member {
    fn unreachable(&self, reason: &str) -> RPCError<Types> {
        let reason = format!("{} on node {}: {reason}", self.group, self.target);
        RPCError::Unreachable(Unreachable::from_string(reason))
    }

    async fn link(&self, option: &RPCOption) -> Result<Arc<Link>, RPCError<Types>> {
        let link = self.transport.link(self.target, option.soft_ttl()).await;
        link.ok_or_else(|| self.unreachable("it is not connected"))
    }

    fn ask(
        &self,
        link: &Arc<Link>,
        body: v1::group_request::Body,
    ) -> Result<Answer, RPCError<Types>> {
        self.ask_in(Lane::Raft, link, body)
    }

    fn ask_in(
        &self,
        lane: Lane,
        link: &Arc<Link>,
        body: v1::group_request::Body,
    ) -> Result<Answer, RPCError<Types>> {
        let request = v1::GroupRequest {
            group: self.group.to_string(),
            body: Some(body),
        };
        link.ask(lane, v1::frame::Body::GroupRequest(request))
            .map_err(|reason| self.unreachable(reason))
    }

    async fn answer(
        &self,
        answer: &mut Answer,
        within: Duration,
    ) -> Result<v1::group_response::Body, RPCError<Types>> {
        let body = tokio::time::timeout(within, answer)
            .await
            .map_err(|_| self.unreachable("it does not answer"))?
            .map_err(|_| self.unreachable("the connection was lost"))?;
        match body {
            v1::frame::Body::GroupResponse(v1::GroupResponse { body: Some(body) }) => match body {
                v1::group_response::Body::Failed(reason) => Err(self.unreachable(&reason)),
                body => Ok(body),
            },
            v1::frame::Body::Refused(refused) => Err(self.unreachable(&refused.reason)),
            _ => Err(self.unreachable("it has answered something else")),
        }
    }

    async fn call(
        &self,
        body: v1::group_request::Body,
        option: &RPCOption,
    ) -> Result<v1::group_response::Body, RPCError<Types>> {
        let link = self.link(option).await?;
        let mut answer = self.ask(&link, body)?;
        self.answer(&mut answer, option.soft_ttl()).await
    }

    async fn appended(
        &self,
        answer: &mut Answer,
        within: Duration,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let body = self.answer(answer, within).await?;
        messages::appended_from_wire(&body)
            .ok_or_else(|| self.unreachable("it has answered something else"))
    }

    async fn ballot(
        &self,
        body: v1::group_request::Body,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(body, option).await? {
            v1::group_response::Body::Ballot(answer) => messages::ballot_answer_from_wire(&answer)
                .map_err(|error| self.unreachable(&error.to_string())),
            _ => Err(self.unreachable("it has answered something else")),
        }
    }
}

/// An append whose answer has not come.
struct Inflight {
    answer: Answer,
    previous: Option<Id>,
    last: Option<Id>,
    bytes: usize,
}

/// Several appends on their way at once, answered in their order.
struct Appends<'s, S> {
    member: &'s Member,
    link: Arc<Link>,
    /// `None` once it has ended, or an answer was not a success.
    input: Option<S>,
    inflight: VecDeque<Inflight>,
    bytes: usize,
}

impl<S: Stream<Item = AppendEntriesRequest<Types>> + Unpin> Appends<'_, S> {
    async fn next(&mut self) -> Option<Result<StreamAppendResult<Types>, RPCError<Types>>> {
        loop {
            let room = self.inflight.len() < APPENDS_INFLIGHT_MAX
                && self.bytes < APPENDS_INFLIGHT_BYTES_MAX;
            let request = match (&mut self.input, self.inflight.front_mut()) {
                (Some(input), None) => input.next().await,
                (Some(input), Some(first)) if room => {
                    let answered = self.member.appended(&mut first.answer, APPEND_MAX);
                    tokio::select! {
                        biased;
                        answered = answered => return Some(self.settle(answered)),
                        request = input.next() => request,
                    }
                }
                (_, Some(first)) => {
                    let answered = self.member.appended(&mut first.answer, APPEND_MAX).await;
                    return Some(self.settle(answered));
                }
                (None, None) => return None,
            };
            let Some(request) = request else {
                self.input = None;
                continue;
            };
            if let Err(error) = self.send(&request) {
                self.end();
                return Some(Err(error));
            }
        }
    }

    fn send(&mut self, request: &AppendEntriesRequest<Types>) -> Result<(), RPCError<Types>> {
        let append = messages::append_to_wire(request);
        let bytes = prost::Message::encoded_len(&append);
        let answer = self
            .member
            .ask(&self.link, v1::group_request::Body::Append(append))?;
        self.bytes += bytes;
        self.inflight.push_back(Inflight {
            answer,
            previous: request.prev_log_id,
            last: request
                .entries
                .last()
                .map(|entry| entry.log_id())
                .or(request.prev_log_id),
            bytes,
        });
        Ok(())
    }

    /// The first append was answered.
    fn settle(
        &mut self,
        answered: Result<AppendEntriesResponse<Types>, RPCError<Types>>,
    ) -> Result<StreamAppendResult<Types>, RPCError<Types>> {
        let first = self.inflight.pop_front().expect("it was answered");
        self.bytes -= first.bytes;
        let result = answered.and_then(|answered| {
            if answered.is_conflict() && first.previous.is_none() {
                return Err(self
                    .member
                    .unreachable("it cannot append at the very beginning"));
            }
            Ok(answered.into_stream_result(first.previous, first.last))
        });
        if !matches!(result, Ok(Ok(_))) {
            self.end();
        }
        result
    }

    fn end(&mut self) {
        self.input = None;
        self.inflight.clear();
        self.bytes = 0;
    }
}

impl Member {
    /// Sends the state as it is now. Waits for the follower with a few chunks on their way.
    async fn send_snapshot(
        &self,
        vote: &VoteOf<Types>,
        option: &RPCOption,
    ) -> Result<SnapshotResponse<Types>, RPCError<Types>> {
        let link = self.link(option).await?;
        let snapshot = random();
        let (sender, mut pieces) = mpsc::channel(1);
        let (storage, group) = (self.storage.clone(), Arc::clone(&self.group));
        // It ends when nobody takes its pieces.
        let producer =
            tokio::task::spawn_blocking(move || snapshot::produce(&storage, &group, &sender));
        let mut inflight = VecDeque::new();
        while let Some(piece) = pieces.recv().await {
            let (body, last) = match piece {
                Piece::Begin(applied) => {
                    let begin = v1::SnapshotBegin {
                        snapshot,
                        vote: Some(codec::vote_to_disk(vote)),
                        applied: Some(applied),
                    };
                    (v1::group_request::Body::SnapshotBegin(begin), false)
                }
                Piece::Chunk { number, rows } => {
                    let chunk = v1::SnapshotChunk {
                        snapshot,
                        number,
                        rows,
                    };
                    (v1::group_request::Body::SnapshotChunk(chunk), false)
                }
                Piece::End { chunks, checksum } => {
                    let end = v1::SnapshotEnd {
                        snapshot,
                        chunks,
                        checksum,
                    };
                    (v1::group_request::Body::SnapshotEnd(end), true)
                }
            };
            let window = if last { 0 } else { CHUNKS_INFLIGHT_MAX - 1 };
            while inflight.len() > window {
                self.chunk_taken(&mut inflight).await?;
            }
            inflight.push_back(self.ask_in(Lane::Application, &link, body)?);
            if last && let Some(mut end) = inflight.pop_front() {
                return match self.answer(&mut end, INSTALL_MAX).await? {
                    v1::group_response::Body::SnapshotInstalled(vote) => {
                        Ok(SnapshotResponse::new(codec::vote_from_disk(&vote)))
                    }
                    _ => Err(self.unreachable("it has answered something else")),
                };
            }
        }
        match producer.await {
            Ok(Err(error)) => Err(self.unreachable(&error.to_string())),
            _ => Err(self.unreachable("the state could not be read")),
        }
    }

    async fn chunk_taken(&self, inflight: &mut VecDeque<Answer>) -> Result<(), RPCError<Types>> {
        let Some(mut first) = inflight.pop_front() else {
            return Ok(());
        };
        match self.answer(&mut first, CHUNK_MAX).await? {
            v1::group_response::Body::SnapshotReady(_) => Ok(()),
            _ => Err(self.unreachable("it has answered something else")),
        }
    }
}

impl RaftNetworkV2<Types> for Member {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let link = self.link(&option).await?;
        let append = messages::append_to_wire(&request);
        let mut answer = self.ask(&link, v1::group_request::Body::Append(append))?;
        self.appended(&mut answer, option.soft_ttl()).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let appends = Appends {
                link: self.link(&option).await?,
                member: self,
                input: Some(input),
                inflight: VecDeque::new(),
                bytes: 0,
            };
            let answers = futures::stream::unfold(appends, |mut appends| async move {
                appends.next().await.map(|answer| (answer, appends))
            });
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let ballot = messages::ballot_to_wire(&request);
        self.ballot(v1::group_request::Body::Vote(ballot), &option)
            .await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let ballot = messages::ballot_to_wire(&request);
        self.ballot(v1::group_request::Body::PreVote(ballot), &option)
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        _own: SnapshotOf<Types, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            sent = self.send_snapshot(&vote, &option) => {
                if let Err(error) = &sent {
                    tracing::warn!(group = %self.group, peer = self.target, %error, "A snapshot was not sent; it is tried again.");
                }
                Ok(sent?)
            }
            closed = cancel => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let transfer = messages::transfer_to_wire(&request);
        let body = v1::group_request::Body::TransferLeader(transfer);
        match self.call(body, &option).await? {
            v1::group_response::Body::Transferred(true) => Ok(Ok(())),
            _ => Err(self.unreachable("it cannot take over now")),
        }
    }
}
