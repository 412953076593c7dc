// The story that every subscribing client must pass, whatever its transport: events, errors, the
// end, and the move to another pod.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { Balancer, Pod, bearer, eventually } from './pod.js';

const WATCH = 'subscription { templateAdded { name } }';
const WRONG = 'subscription { templateAdded { nothing } }';
/** A drain with each of its steps, but without the time that a load balancer needs. */
const DRAIN = { RELAY_DRAIN_DELAY: '1s', RELAY_DRAIN_SPREAD: '2s' };

/** Results that a client passed on for one subscription. */
class Seen {
  names = [];
  errors = [];
  completed = false;

  sink = {
    next: (result) => {
      if (result.errors?.length) this.errors.push(...result.errors);
      // Pods without a broker share no past, so a client that resumes gets a gap notice.
      else if (result.extensions?.gap) return;
      else this.names.push(result.data.templateAdded.name);
    },
    error: (error) => this.errors.push(...[error].flat()),
    complete: () => (this.completed = true),
  };

  async until(name) {
    await eventually(`${name} among ${this.names}; errors: ${this.errors}`, () => this.names.includes(name));
  }
}

/**
 * Runs the story with this client. `connect(http, headers)` returns `{ subscribe(query, sink),
 * close() }`, and `subscribe` returns a function that ends the subscription.
 */
export function story(name, connect) {
  describe(name, { timeout: 120_000 }, () => {
    let pod;
    const clients = [];
    const client = async (user, http = pod.http) => {
      const made = await connect(http, { authorization: bearer(user) });
      clients.push(made);
      return made;
    };
    before(async () => {
      pod = await Pod.start();
    });
    after(async () => {
      // A client that was refused reports it once more when it is closed.
      await Promise.allSettled(clients.map((made) => made.close()));
      pod.stop();
    });

    it('receives the events of its viewer until it ends the subscription', async () => {
      const zolo = await client('ZOLO');
      const [seen, other] = [new Seen(), new Seen()];
      const end = zolo.subscribe(WATCH, seen.sink);
      const endOther = (await client('ZEWI')).subscribe(WATCH, other.sink);
      await pod.untilWatchers(2);
      await pod.addTemplate('first');
      await seen.until('first');
      end();
      await pod.untilWatchers(1);
      await pod.addTemplate('second');
      await other.until('second');
      assert.deepEqual(seen.names, ['first']);
      assert.deepEqual(seen.errors, []);
      endOther();
      await pod.untilWatchers(0);
    });

    it('receives the error in its document', async () => {
      const seen = new Seen();
      const zolo = await client('ZOLO');
      zolo.subscribe(WRONG, seen.sink);
      await eventually('an error', () => seen.errors.length);
      assert.match(JSON.stringify(seen.errors.map(({ message, ...error }) => ({ message, ...error }))), /nothing/);
      assert.deepEqual(seen.names, []);
    });

    it('receives an error when its token names no user', async () => {
      const seen = new Seen();
      const unknown = await client('NO_USER');
      unknown.subscribe(WATCH, seen.sink);
      await eventually('an error', () => seen.errors.length || unknown.refused?.());
      assert.deepEqual(seen.names, []);
    });

    it('reconnects to another pod when its pod drains, and receives no completion', async () => {
      const old = await Pod.start(DRAIN);
      const balancer = await Balancer.start(old);
      const seen = new Seen();
      const zolo = await client('ZOLO', balancer.http);
      const end = zolo.subscribe(WATCH, seen.sink);
      await old.untilWatchers(1);
      await old.addTemplate('before');
      await seen.until('before');
      const next = await Pod.start();
      balancer.pod = next;
      try {
        await old.drain();
        await next.untilWatchers(1);
        await next.addTemplate('after');
        await seen.until('after');
        assert.equal(seen.completed, false);
      } finally {
        end();
        next.stop();
        balancer.stop();
      }
    });
  });
}
