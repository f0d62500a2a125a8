// A caller that uses Node's own `fetch`. It does not tell which version it spoke.
//
// Commands: `get URL`, `post URL LENGTH`, `chunked URL LENGTH`. Answers: `STATUS - BODY`.

import { createInterface } from 'node:readline';

const HEADERS = { authorization: 'Bearer the-callers-own', 'x-caller': 'fetch' };

// The bytes that the tests expect in a body of this length.
const pattern = (length) => Uint8Array.from({ length }, (_, i) => (i * 31) % 251);

// The same bytes in pieces, so that nobody knows the length in advance.
function pieces(length) {
  const body = pattern(length);
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at >= length) return controller.close();
      controller.enqueue(body.slice(at, at + 7000));
      at += 7000;
    },
  });
}

for await (const line of createInterface({ input: process.stdin })) {
  const [command, url, length] = line.split(' ');
  const options = { headers: HEADERS, redirect: 'manual', signal: AbortSignal.timeout(20_000) };
  if (command !== 'get') options.method = 'POST';
  if (command === 'post') options.body = pattern(Number(length));
  if (command === 'chunked') Object.assign(options, { body: pieces(Number(length)), duplex: 'half' });
  const answer = await fetch(url, options);
  console.log(answer.status, '-', await answer.text());
}
