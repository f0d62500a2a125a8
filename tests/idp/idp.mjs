// A certified authorization server (npm `oidc-provider`) for the integration tests: an independent judge of what
// the gateway sends. Plain HTTP on a free port of 127.0.0.1, all state in memory. `tests/it/authorization_server.rs`
// starts it, reads the line `ready URL`, and closes its stdin to end it.
//
//   IDP_TTL    lifetime of tokens in seconds (default 60)
//   IDP_CERTS  folder of a test's keys and certificates: with it there are clients for every other method, and a
//              second, TLS port that asks for certificates. The line is then `ready URL TLS-URL`.

import { createPublicKey, randomBytes, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { once } from 'node:events';
import { exportJWK, generateKeyPair } from 'jose';
import Provider, { errors } from 'oidc-provider';

const LIFETIME = Number.parseInt(process.env.IDP_TTL ?? '60', 10);
if (!(LIFETIME > 0)) throw new Error(`IDP_TTL must be a positive number of seconds: ${process.env.IDP_TTL}`);

// Each character of it breaks an encoder that takes a short cut.
const SECRET = 'p+s/s=w:o%r&d "~ 1';
const SCOPES = 'orders.read orders.write';
const RESOURCE = 'urn:orders';

// A test that was killed leaves nothing running.
process.stdin.resume();
process.stdin.once('end', () => process.exit(0));
process.stdin.once('error', () => process.exit(0));

// The issuer holds the port, so listening comes first.
const server = createServer();
server.listen(0, '127.0.0.1');
await once(server, 'listening');
const issuer = `http://127.0.0.1:${server.address().port}`;

// Whoever shows no certificate, or an unknown one, gets in and is refused by the method that wanted it.
const folder = process.env.IDP_CERTS;
const read = (name) => readFileSync(`${folder}/${name}`);
let tlsServer;
if (folder) {
  tlsServer = createTlsServer({
    key: read('server.key'), cert: read('server.pem'), ca: read('ca.pem'), requestCert: true, rejectUnauthorized: false,
  });
  tlsServer.listen(0, '127.0.0.1');
  await once(tlsServer, 'listening');
}
const tlsUrl = folder && `https://127.0.0.1:${tlsServer.address().port}`;

const account = (client_id, token_endpoint_auth_method) => ({
  client_id,
  client_secret: SECRET,
  token_endpoint_auth_method,
  grant_types: ['client_credentials'],
  response_types: [],
  redirect_uris: [],
  scope: SCOPES,
});

/** Clients that prove themselves without sending a secret. */
function provenAccounts() {
  const without = (id, method, more) => ({ ...account(id, method), client_secret: undefined, ...more });
  const key = (name) => ({ ...createPublicKey(read(name)).export({ format: 'jwk' }), use: 'sig' });
  const own = new X509Certificate(read('self.pem'));
  const ownKey = { ...own.publicKey.export({ format: 'jwk' }), x5c: [own.raw.toString('base64')], use: 'sig' };
  const bound = { tls_client_certificate_bound_access_tokens: true };
  return [
    account('svc-secret-jwt', 'client_secret_jwt'),
    without('svc-rsa', 'private_key_jwt', { jwks: { keys: [{ ...key('rsa.pub'), kid: 'rsa-1' }] } }),
    without('svc-ec', 'private_key_jwt', { jwks: { keys: [key('ec.pub')] } }),
    without('svc-rsa-bound', 'private_key_jwt', { jwks: { keys: [key('rsa.pub')] }, ...bound }),
    without('svc-tls', 'tls_client_auth', { tls_client_auth_subject_dn: 'CN=svc-tls', ...bound }),
    without('svc-self', 'self_signed_tls_client_auth', { jwks: { keys: [ownKey] }, ...bound }),
  ];
}

const { privateKey } = await generateKeyPair('RS256', { extractable: true });
const provider = new Provider(issuer, {
  jwks: { keys: [{ ...(await exportJWK(privateKey)), kid: 'test', use: 'sig', alg: 'RS256' }] },
  clients: [
    account('svc-basic', 'client_secret_basic'),
    account('svc post:1', 'client_secret_post'),
    { ...account('svc-dpop', 'client_secret_basic'), dpop_bound_access_tokens: true },
    { ...account('svc-dpop-nonce', 'client_secret_basic'), dpop_bound_access_tokens: true },
    // The harness asks and revokes with this one; it is nobody's service account.
    { ...account('api', 'client_secret_basic'), client_secret: 'api-secret', scope: undefined },
    ...(folder ? provenAccounts() : []),
  ],
  scopes: SCOPES.split(' '),
  clientAuthMethods: [
    'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'tls_client_auth',
    'self_signed_tls_client_auth',
  ],
  discovery: folder ? { mtls_endpoint_aliases: { token_endpoint: `${tlsUrl}/token` } } : {},
  ttl: { ClientCredentials: (ctx, token) => token.resourceServer?.accessTokenTTL ?? LIFETIME },
  extraTokenClaims: (ctx, token) => ({ azp: token.clientId, roles: ['orders.process'] }),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    dPoP: {
      enabled: true,
      nonceSecret: randomBytes(32),
      requireNonce: (ctx) => ctx.oidc.client?.clientId === 'svc-dpop-nonce',
    },
    introspection: { enabled: true, allowedPolicy: () => true },
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      selfSignedTlsClientAuth: true,
      tlsClientAuth: true,
      getCertificate: (ctx) => ctx.socket.getPeerX509Certificate?.()?.toString(),
      certificateAuthorized: (ctx) => ctx.socket.authorized,
      certificateSubjectMatches: (ctx, property, expected) =>
        property === 'tls_client_auth_subject_dn' && ctx.socket.getPeerX509Certificate().subject === expected,
    },
    revocation: { enabled: true, allowedPolicy: () => true },
    resourceIndicators: {
      enabled: true,
      // Without a resource the token is opaque, and only introspection can tell what it is worth.
      defaultResource: (ctx, client, oneOf) => oneOf,
      getResourceServerInfo: (ctx, resource) => {
        if (resource !== RESOURCE) throw new errors.InvalidTarget();
        return {
          audience: RESOURCE,
          scope: SCOPES,
          accessTokenFormat: 'jwt',
          accessTokenTTL: LIFETIME,
          jwt: { sign: { alg: 'RS256' } },
        };
      },
    },
  },
});
provider.on('grant.error', (ctx, e) => console.error('refused:', e.error, e.error_detail ?? e.error_description ?? ''));
provider.on('server_error', (ctx, e) => console.error('broken:', e));

server.on('request', provider.callback());
tlsServer?.on('request', provider.callback());
console.log(`ready ${[issuer, tlsUrl].filter(Boolean).join(' ')}`);
