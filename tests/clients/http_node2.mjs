// A caller that uses Node's `http2`: `http_node2.mjs URL [CA]`. Without a CA, by prior knowledge.
//
// Commands: `get URL`, `post URL LENGTH`, `chunked URL LENGTH`. Answers: `STATUS HTTP/2 BODY`.

import { readFileSync } from 'node:fs';
import { connect } from 'node:http2';
import { createInterface } from 'node:readline';

const HEADERS = { authorization: 'Bearer the-callers-own', 'x-caller': 'node-http2' };

// The bytes that the tests expect in a body of this length.
const pattern = (length) => Buffer.from(Uint8Array.from({ length }, (_, i) => (i * 31) % 251));

const [origin, ca] = process.argv.slice(2);
const session = connect(origin, ca ? { ca: readFileSync(ca) } : {});

function send(command, url, length) {
  return new Promise((resolve, reject) => {
    const path = new URL(url).pathname;
    const headers = { ...HEADERS, ':path': path, ':method': command === 'get' ? 'GET' : 'POST' };
    if (command === 'post') headers['content-length'] = length;
    const stream = session.request(headers, { endStream: command === 'get' });
    let status;
    let text = '';
    stream.setEncoding('utf8');
    stream.on('response', (head) => (status = head[':status']));
    stream.on('data', (part) => (text += part));
    stream.on('end', () => resolve(`${status} HTTP/2 ${text}`));
    stream.on('error', reject);
    if (command !== 'get') stream.end(pattern(Number(length)));
  });
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(await send(...line.split(' ')));
}
session.close();
