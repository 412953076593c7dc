// The audits of GraphQL over HTTP itself: every MUST, SHOULD and MAY.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { serverAudits } from 'graphql-http';

import { Pod, bearer } from './pod.js';

describe('graphql-http', () => {
  let pod;
  before(async () => {
    pod = await Pod.start();
  });
  after(() => pod.stop());
  const audits = serverAudits({
    url: () => `${pod.http}/graphql`,
    fetchFn: (url, init = {}) => fetch(url, { ...init, headers: { ...init.headers, authorization: bearer('ZOWI') } }),
  });
  for (const audit of audits) {
    it(`${audit.id} ${audit.name}`, async () => {
      const result = await audit.fn();
      assert.equal(result.status, 'ok', result.reason);
    });
  }
});
