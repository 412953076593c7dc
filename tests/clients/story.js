// What every client that subscribes must see, whatever its transport: events, errors, the end, and its pod's successor.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { Balancer, Pod, bearer, eventually } from './pod.js';

const WATCH = 'subscription { templateAdded { name } }';
const WRONG = 'subscription { templateAdded { nothing } }';

/** What a client told us of one subscription. */
class Seen {
  names = [];
  errors = [];
  completed = false;

  sink = {
    next: (result) => {
      if (result.errors?.length) this.errors.push(...result.errors);
      // Pods without a broker have no past in common, and say so to a client that resumes.
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
 * Tells the story with this client. `connect(http, headers)` gives `{ subscribe(query, sink), close() }`, and `subscribe` a
 * function that ends the subscription.
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
      // A client that was refused says so once more when it is closed.
      await Promise.allSettled(clients.map((made) => made.close()));
      pod.stop();
    });

    it('receives what is for its viewer, until it ends the subscription', async () => {
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

    it('is told what is wrong with its document', async () => {
      const seen = new Seen();
      const zolo = await client('ZOLO');
      zolo.subscribe(WRONG, seen.sink);
      await eventually('an error', () => seen.errors.length);
      assert.match(JSON.stringify(seen.errors.map(({ message, ...error }) => ({ message, ...error }))), /nothing/);
      assert.deepEqual(seen.names, []);
    });

    it('is told when it is nobody', async () => {
      const seen = new Seen();
      const nobody = await client('NOBODY');
      nobody.subscribe(WATCH, seen.sink);
      await eventually('an error', () => seen.errors.length || nobody.refused?.());
      assert.deepEqual(seen.names, []);
    });

    it('comes back to another pod when its own drains, and is not told that it is over', async () => {
      const old = await Pod.start();
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
