//! One publisher and one live subscriber, each on a node that is left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::task::JoinHandle;

/// Publications without acknowledgement.
const INFLIGHT: u16 = 2000;

fn options(id: &str, port: u16) -> MqttOptions {
    let mut options = MqttOptions::new(id, "127.0.0.1", port);
    options
        .set_keep_alive(Duration::from_secs(30))
        .set_inflight(INFLIGHT);
    options
}

/// Publishes numbers to `topic` at `rate` a second, by the clock and not by the answers, until `stop`; comes back with when
/// each was acknowledged, once all are.
pub fn publish(
    port: u16,
    topic: &'static str,
    rate: u32,
    stop: Arc<AtomicBool>,
) -> JoinHandle<Result<Vec<Instant>, String>> {
    tokio::spawn(async move {
        let (client, mut events) = AsyncClient::new(options("chaos-publisher", port), 4096);
        let feeder = tokio::spawn(async move {
            let begun = tokio::time::Instant::now();
            let mut sent: u64 = 0;
            while !stop.load(Ordering::Relaxed) {
                let due = begun.elapsed().as_secs_f64() * f64::from(rate);
                while (sent as f64) < due {
                    let payload = sent.to_string();
                    if let Err(error) = client
                        .publish(topic, QoS::AtLeastOnce, false, payload)
                        .await
                    {
                        return Err(error.to_string());
                    }
                    sent += 1;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // The client lives until all is acknowledged.
            Ok((client, sent))
        });
        let mut acknowledged = Vec::new();
        let mut feeder = Some(feeder);
        let mut kept = None;
        loop {
            if feeder.as_ref().is_some_and(JoinHandle::is_finished)
                && let Some(fed) = feeder.take()
            {
                kept = Some(fed.await.map_err(|error| error.to_string())??);
            }
            if let Some((_, sent)) = &kept
                && acknowledged.len() as u64 >= *sent
            {
                return Ok(acknowledged);
            }
            let polled = tokio::time::timeout(Duration::from_millis(100), events.poll()).await;
            match polled {
                Ok(Ok(Event::Incoming(Packet::PubAck(_)))) => acknowledged.push(Instant::now()),
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => {
                    return Err(format!("the publisher lost its connection: {error}"));
                }
            }
        }
    })
}

/// Receives the numbers of `topic` until `done`, and then until it is quiet. Comes back first when the subscription is in place.
///
/// # Errors
/// In words.
pub async fn subscribe(
    port: u16,
    topic: &'static str,
    done: Arc<AtomicBool>,
) -> Result<JoinHandle<Result<Vec<u64>, String>>, String> {
    let (client, mut events) = AsyncClient::new(options("chaos-subscriber", port), 100);
    client
        .subscribe(topic, QoS::AtLeastOnce)
        .await
        .map_err(|error| error.to_string())?;
    while !matches!(
        events.poll().await.map_err(|error| error.to_string())?,
        Event::Incoming(Packet::SubAck(_))
    ) {}
    Ok(tokio::spawn(async move {
        let _client = client;
        let mut received = Vec::new();
        let mut quiet = Instant::now();
        loop {
            match tokio::time::timeout(Duration::from_millis(100), events.poll()).await {
                Ok(Ok(Event::Incoming(Packet::Publish(publish)))) => {
                    let text = String::from_utf8_lossy(&publish.payload).into_owned();
                    received.push(
                        text.parse()
                            .map_err(|_| format!("{text} is no number of ours"))?,
                    );
                    quiet = Instant::now();
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    return Err(format!("the subscriber lost its connection: {error}"));
                }
                Err(_)
                    if done.load(Ordering::Relaxed) && quiet.elapsed() > Duration::from_secs(2) =>
                {
                    return Ok(received);
                }
                Err(_) => {}
            }
        }
    }))
}
