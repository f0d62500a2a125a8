// A WebSocket API that demands a bearer token in the handshake.
//
// Prints `ready PORT`, then `upgrade PATH ok|refused` for each handshake and `closed CODE REASON` for each end.
// The command `revoke` on stdin takes back every token seen so far.
//
// Paths: /echo answers every message with itself; /bye closes with 4001 at the first message; /ping pings and
// says what came back; /refuse answers 403; anything else /echo's way.

import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { WebSocketServer } from 'ws';

const seen = new Set();
const revoked = new Set();
const sockets = new WebSocketServer({
  noServer: true,
  maxPayload: 64 * 2 ** 20,
  perMessageDeflate: true,
  handleProtocols: (offered) => (offered.has('orders.v1') ? 'orders.v1' : false),
});
const server = createServer((request, response) => response.end('not a handshake'));

function refuse(socket, head, body) {
  socket.end(`HTTP/1.1 ${head}\r\nContent-Type: text/plain\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`);
}

server.on('upgrade', (request, socket, head) => {
  const path = request.url;
  const token = (request.headers.authorization ?? '').replace(/^Bearer /, '');
  if (token.split('.').length !== 3 || revoked.has(token)) {
    console.log(`upgrade ${path} refused`);
    return refuse(socket, '401 Unauthorized\r\nWWW-Authenticate: Bearer error="invalid_token"', 'a token is needed');
  }
  seen.add(token);
  console.log(`upgrade ${path} ok`);
  if (path === '/refuse') return refuse(socket, '403 Forbidden', 'not you');
  sockets.handleUpgrade(request, socket, head, (ws) => converse(ws, path));
});

function converse(ws, path) {
  ws.on('error', () => {});
  ws.on('close', (code, reason) => console.log(`closed ${code} ${reason}`));
  if (path === '/ping') {
    ws.on('pong', (data) => ws.send(`pong ${data}`));
    ws.ping('are you there');
    return;
  }
  ws.on('message', (data, isBinary) => {
    if (path === '/bye') return ws.close(4001, 'that is all');
    ws.send(data, { binary: isBinary });
  });
}

for (const name of ['SIGTERM', 'SIGINT']) process.on(name, () => process.exit(0));
server.listen(0, '127.0.0.1', () => console.log(`ready ${server.address().port}`));
for await (const line of createInterface({ input: process.stdin })) {
  if (line !== 'revoke') continue;
  for (const token of seen) revoked.add(token);
  console.log('revoked');
}
process.exit(0);
