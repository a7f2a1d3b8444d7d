//! One QoS 1 PUBLISH in and out: this codec, mqttbytes and rmqtt-codec in the same run. Topic of 24 bytes, payload of
//! 100, 64 frames a read buffer; divide by 64 for a packet.

#![allow(missing_docs, reason = "criterion generates undocumented functions")]

use std::hint::black_box;
use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use meridian_mqtt::codec::{
    Decoder, PACKET_BYTES_MAX, PublishHeader, encode, encode_publish_header,
};
use meridian_mqtt::packet::{Packet, PacketId, Publish, PublishProperties, QoS, Version};
use meridian_mqtt::topic::TopicName;
use tokio_util::codec::{Decoder as _, Encoder as _};

const FRAMES: usize = 64;
const TOPIC: &str = "gps/us-east/t-00001/posit";

fn publish(payload: usize) -> Publish {
    Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: Some(TopicName::from_static(TOPIC)),
        packet_id: Some(PacketId(NonZeroU16::MIN)),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: PublishProperties::default(),
        payload: Bytes::from(vec![b'x'; payload]),
    }
}

fn frames(version: Version) -> Bytes {
    let mut buffer = BytesMut::new();
    for _ in 0..FRAMES {
        encode(
            &Packet::Publish(publish(100)),
            version,
            PACKET_BYTES_MAX,
            &mut buffer,
        )
        .expect("a legal packet");
    }
    buffer.freeze()
}

fn decode(criterion: &mut Criterion) {
    for (name, version) in [("3.1.1", Version::V311), ("5.0", Version::V5)] {
        let input = frames(version);
        let mut group = criterion.benchmark_group(format!("decode 64 QoS 1 PUBLISH {name}"));
        group.throughput(Throughput::Elements(FRAMES as u64));
        let fresh = || BytesMut::from(&input[..]);
        group.bench_function("meridian", |bencher| {
            bencher.iter_batched_ref(
                fresh,
                |buffer| {
                    let mut decoder = Decoder::client(version, PACKET_BYTES_MAX);
                    while let Some(packet) = decoder.decode(buffer).expect("legal") {
                        black_box(packet);
                    }
                },
                BatchSize::NumIterations(16),
            );
        });
        group.bench_function("mqttbytes", |bencher| {
            bencher.iter_batched_ref(
                fresh,
                |buffer| {
                    while !buffer.is_empty() {
                        match version {
                            Version::V311 => drop(black_box(
                                mqttbytes::v4::read(buffer, 1 << 20).expect("legal"),
                            )),
                            Version::V5 => drop(black_box(
                                mqttbytes::v5::read(buffer, 1 << 20).expect("legal"),
                            )),
                        }
                    }
                },
                BatchSize::NumIterations(16),
            );
        });
        group.bench_function("rmqtt-codec", |bencher| {
            bencher.iter_batched_ref(
                fresh,
                |buffer| {
                    let (mut v3, mut v5) = (
                        rmqtt_codec::v3::Codec::new(0),
                        rmqtt_codec::v5::Codec::new(0, 0),
                    );
                    while !buffer.is_empty() {
                        match version {
                            Version::V311 => drop(black_box(v3.decode(buffer).expect("legal"))),
                            Version::V5 => drop(black_box(v5.decode(buffer).expect("legal"))),
                        }
                    }
                },
                BatchSize::NumIterations(16),
            );
        });
        group.finish();
    }
}

fn encode_one(criterion: &mut Criterion) {
    for (name, version) in [("3.1.1", Version::V311), ("5.0", Version::V5)] {
        let mut group = criterion.benchmark_group(format!("encode 64 QoS 1 PUBLISH {name}"));
        group.throughput(Throughput::Elements(FRAMES as u64));
        let packet = Packet::Publish(publish(100));
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        group.bench_function("meridian", |bencher| {
            bencher.iter(|| {
                buffer.clear();
                for _ in 0..FRAMES {
                    encode(black_box(&packet), version, PACKET_BYTES_MAX, &mut buffer)
                        .expect("legal");
                }
            });
        });
        let mut v4 =
            mqttbytes::v4::Publish::new(TOPIC, mqttbytes::QoS::AtLeastOnce, vec![b'x'; 100]);
        let mut v5 =
            mqttbytes::v5::Publish::new(TOPIC, mqttbytes::QoS::AtLeastOnce, vec![b'x'; 100]);
        (v4.pkid, v5.pkid) = (1, 1);
        group.bench_function("mqttbytes", |bencher| {
            bencher.iter(|| {
                buffer.clear();
                for _ in 0..FRAMES {
                    match version {
                        Version::V311 => black_box(&v4).write(&mut buffer).expect("legal"),
                        Version::V5 => black_box(&v5).write(&mut buffer).expect("legal"),
                    };
                }
            });
        });
        let input = frames(version);
        let mut codecs = (
            rmqtt_codec::v3::Codec::new(0),
            rmqtt_codec::v5::Codec::new(0, 0),
        );
        group.bench_function(
            "rmqtt-codec (with the clone that it takes)",
            |bencher| match version {
                Version::V311 => {
                    let (packet, _) = codecs
                        .0
                        .decode(&mut BytesMut::from(&input[..]))
                        .expect("legal")
                        .expect("whole");
                    bencher.iter(|| {
                        buffer.clear();
                        for _ in 0..FRAMES {
                            codecs.0.encode(packet.clone(), &mut buffer).expect("legal");
                        }
                    });
                }
                Version::V5 => {
                    let (packet, _) = codecs
                        .1
                        .decode(&mut BytesMut::from(&input[..]))
                        .expect("legal")
                        .expect("whole");
                    bencher.iter(|| {
                        buffer.clear();
                        for _ in 0..FRAMES {
                            codecs.1.encode(packet.clone(), &mut buffer).expect("legal");
                        }
                    });
                }
            },
        );
        group.finish();
    }
}

/// One message of 1 KiB to 64 subscribers: whole packets, against a header each and one shared payload.
fn fan_out(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan out 1 KiB to 64 subscribers 5.0");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let message = publish(1024);
    let whole = Packet::Publish(message.clone());
    let mut buffer = BytesMut::with_capacity(128 * 1024);
    group.bench_function("whole packets", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            for _ in 0..FRAMES {
                encode(
                    black_box(&whole),
                    Version::V5,
                    PACKET_BYTES_MAX,
                    &mut buffer,
                )
                .expect("legal");
            }
        });
    });
    group.bench_function("a header each, the payload shared", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            for id in 1..=FRAMES as u16 {
                let header = PublishHeader {
                    packet_id: PacketId::new(id),
                    ..PublishHeader::from(black_box(&message))
                };
                encode_publish_header(&header, Version::V5, PACKET_BYTES_MAX, &mut buffer)
                    .expect("legal");
                black_box(message.payload.clone());
            }
        });
    });
    group.finish();
}

criterion_group!(benches, decode, encode_one, fan_out);
criterion_main!(benches);
