// Publishes events to a Pub/Sub topic, as a program of your own would: README.md has commands.
//
//   node publish.js [--structured] PROJECT TOPIC EVENT.json...
//
// Each file is a CloudEvent. The program gives it an id and a time of its own.

const { randomUUID } = require('node:crypto');
const { readFileSync } = require('node:fs');
const { parseArgs } = require('node:util');
const { PubSub } = require('@google-cloud/pubsub'); // finds the emulator by PUBSUB_EMULATOR_HOST

/** Returns the message of an event: attributes beside the data, or the whole event as the data. */
function message(event, isStructured) {
  if (isStructured) {
    const attributes = { 'content-type': 'application/cloudevents+json' };
    return { attributes, data: Buffer.from(JSON.stringify(event)) };
  }
  const { data, datacontenttype, ...rest } = event;
  const attributes = { 'content-type': datacontenttype ?? 'application/json' };
  for (const [name, value] of Object.entries(rest)) attributes[`ce-${name}`] = value;
  return { attributes, data: Buffer.from(JSON.stringify(data)) };
}

async function main() {
  const { values, positionals } = parseArgs({ options: { structured: { type: 'boolean' } }, allowPositionals: true });
  const [projectId, topicName, ...files] = positionals;
  const topic = new PubSub({ projectId }).topic(topicName, { messageOrdering: true });
  for (const file of files) {
    const event = { ...JSON.parse(readFileSync(file, 'utf8')), id: randomUUID(), time: new Date().toISOString() };
    // Events with one key arrive in the order in which they are published.
    await topic.publishMessage({ ...message(event, values.structured), orderingKey: event.subject });
    console.log(`published ${event.type} ${event.id}`);
  }
}

main();
