// MQTT.js: publishes and receives at every QoS, and sees a retained message. node client.js URL VERSION TOPIC CAFILE
const mqtt = require('mqtt');
const fs = require('fs');

const [url, version, topic, cafile] = process.argv.slice(2);
const client = mqtt.connect(url, {
  protocolVersion: Number(version), ca: fs.readFileSync(cafile), reconnectPeriod: 0, connectTimeout: 10000,
});
const fail = (what) => { console.error(what); process.exit(1); };
setTimeout(() => fail('took too long'), 20000);
client.on('error', fail);

const expected = [];
for (const qos of [0, 1, 2]) for (let i = 0; i < 20; i++) expected.push(`${qos}:${i}`);
const got = [];

client.on('connect', async () => {
  await client.subscribeAsync(`${topic}/live`, { qos: 2 });
  for (const word of expected) await client.publishAsync(`${topic}/live`, word, { qos: Number(word[0]) });
  await client.publishAsync(`${topic}/kept`, 'kept', { qos: 1, retain: true });
  await client.subscribeAsync(`${topic}/kept`, { qos: 1 });
});
client.on('message', (from, payload, packet) => {
  if (from.endsWith('/kept')) {
    if (!packet.retain || payload.toString() !== 'kept') fail('the retained message is wrong');
    got.push('kept');
  } else got.push(payload.toString());
  if (got.length === expected.length + 1) {
    for (const qos of '012') {
      const words = got.filter((word) => word[0] === qos).join();
      if (words !== expected.filter((word) => word[0] === qos).join()) fail(`out of order: ${words}`);
    }
    client.end(false, {}, () => { console.log('ok'); process.exit(0); });
  }
});
