// A WebSocket caller that uses `ws`: `ws_client.mjs URL [CA [TOKEN]]`. A CA of `-` is none.
//
// The command `all` on stdin runs every case and prints `ok NAME` or `failed NAME: why`, then `done`. Any other
// command is the name of one case.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import WebSocket from 'ws';

const [base, ca, token] = process.argv.slice(2);

function open(path, protocols = [], more = {}) {
  const headers = { authorization: `Bearer ${token ?? 'the-callers-own'}` };
  const tls = ca && ca !== '-' ? { ca: readFileSync(ca) } : {};
  return new WebSocket(base + path, protocols, { headers, handshakeTimeout: 20_000, ...tls, ...more });
}

async function opened(...how) {
  const ws = open(...how);
  await once(ws, 'open');
  return ws;
}

async function echoes(ws, message) {
  ws.send(message);
  const [data, isBinary] = await once(ws, 'message');
  assert.equal(isBinary, typeof message !== 'string');
  assert.ok(Buffer.from(message).equals(data), `${data.length} bytes came back, not ${message.length} or not the same`);
}

async function close(ws, code = 1000, reason = '') {
  ws.close(code, reason);
  return once(ws, 'close');
}

const cases = {
  async text() {
    const ws = await opened('/echo');
    for (const message of ['hello', '', 'naïve 注文 🙂', 'x'.repeat(126), 'y'.repeat(65_536)]) await echoes(ws, message);
    await close(ws);
  },
  async binary() {
    const ws = await opened('/echo');
    for (const length of [0, 1, 125, 126, 65_535, 65_536]) await echoes(ws, randomBytes(length));
    await close(ws);
  },
  async large() {
    for (const perMessageDeflate of [true, false]) {
      const ws = await opened('/echo', [], { perMessageDeflate });
      await echoes(ws, randomBytes(8 * 2 ** 20));
      await close(ws);
    }
  },
  async many() {
    const ws = await opened('/echo');
    let back = 0;
    const all = new Promise((resolve) => ws.on('message', (data) => {
      assert.equal(String(data), String(back));
      if (++back === 2000) resolve();
    }));
    for (let n = 0; n < 2000; n++) ws.send(String(n));
    await all;
    await close(ws);
  },
  async ping_by_the_caller() {
    const ws = await opened('/echo');
    ws.ping('hello');
    const [data] = await once(ws, 'pong');
    assert.equal(String(data), 'hello');
    await close(ws);
  },
  async ping_by_the_api() {
    const ws = open('/ping');
    const [data] = await once(ws, 'message');
    assert.equal(String(data), 'pong are you there');
    await close(ws);
  },
  async close_by_the_caller() {
    const ws = await opened('/echo');
    const [code, reason] = await close(ws, 4321, 'enough');
    assert.deepEqual([code, String(reason)], [4321, 'enough']);
  },
  async close_by_the_api() {
    const ws = await opened('/bye');
    ws.send('hello');
    const [code, reason] = await once(ws, 'close');
    assert.deepEqual([code, String(reason)], [4001, 'that is all']);
  },
  async subprotocol() {
    const ws = await opened('/echo', ['orders.v2', 'orders.v1']);
    assert.equal(ws.protocol, 'orders.v1');
    await close(ws);
  },
  async refused() {
    const ws = open('/refuse');
    const [, response] = await once(ws, 'unexpected-response');
    let body = '';
    for await (const part of response) body += part;
    assert.deepEqual([response.statusCode, body], [403, 'not you']);
  },
};

async function attempt(name) {
  try {
    const late = AbortSignal.timeout(20_000);
    await Promise.race([cases[name](), once(late, 'abort').then(() => assert.fail('not in time'))]);
    console.log(`ok ${name}`);
  } catch (error) {
    console.log(`failed ${name}: ${String(error?.message ?? error).replaceAll('\n', ' ')}`);
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  if (line !== 'all') {
    await attempt(line);
    continue;
  }
  for (const name of Object.keys(cases)) await attempt(name);
  console.log('done');
}
process.exit(0);
