// A certified OpenID Provider for the tests; tests/support/openid_provider.py starts and configures it.
//
//     node provider.mjs '{"issuer": "http://localhost:8001", "client": ..., "accounts": ..., "keys": ..., ...}'
//
// Runs in the folder of its node_modules, until its standard input is closed. Its standard output is JSON lines:
// first that it listens, then what the token endpoint was sent and has given.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { text } from 'node:stream/consumers';

console.warn = console.info = () => {}; // it warns at length that this is no provider for production

const { default: Provider } = await import(createRequire(`${process.cwd()}/`).resolve('oidc-provider'));
const config = JSON.parse(process.argv[2]);

const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const page = (title, content) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>${title}</title>
  <link rel="icon" href="data:,">
  <h1>${title}</h1>${content}`;

const LOGIN = `
  <form method="post">
    <label>Account <input name="account" required></label>
    <label>Passcode <input name="passcode" type="password" required></label>
    <button name="answer" value="login">Log in</button>
    <button name="answer" value="cancel" formnovalidate>Cancel</button>
  </form>`;
const CONSENT = `
  <form method="post">
    <button name="answer" value="consent">Allow</button>
    <button name="answer" value="cancel">Cancel</button>
  </form>`;

async function interact(ctx, provider) {
  const { prompt, session, params } = await provider.interactionDetails(ctx.req, ctx.res);
  const title = prompt.name === 'login' ? 'Log in' : 'Consent';
  if (ctx.method === 'GET') {
    ctx.body = page(title, prompt.name === 'login' ? LOGIN : CONSENT);
    return;
  }
  const form = new URLSearchParams(await text(ctx.req));
  let result;
  if (form.get('answer') === 'cancel') {
    result = { error: 'access_denied', error_description: '<b>The person</b> cancelled' };
  } else if (prompt.name === 'login') {
    const found = config.accounts.find(({ claims }) => claims.preferred_username === form.get('account'));
    if (found?.passcode !== form.get('passcode')) {
      ctx.body = page(title, `<p>Account or passcode is wrong.</p>${LOGIN}`);
      return;
    }
    result = { login: { accountId: found.claims.sub } };
  } else {
    const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    grant.addOIDCScope(params.scope);
    result = { consent: { grantId: await grant.save() } };
  }
  ctx.status = 303;
  ctx.redirect(await provider.interactionResult(ctx.req, ctx.res, result));
}

function newProvider({ issuer, client, accounts, keys, conformIdTokenClaims }) {
  const provider = new Provider(issuer, {
    clients: [{ ...client, response_types: ['code'], grant_types: ['authorization_code'] }],
    clientAuthMethods: [client.token_endpoint_auth_method],
    jwks: { keys },
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'PS256', 'ES256', 'EdDSA', 'Ed25519'] },
    pkce: { required: () => true },
    scopes: ['openid'],
    claims: {
      openid: ['sub'],
      profile: ['name', 'preferred_username'],
      email: ['email', 'email_verified'],
      groups: ['groups'],
    },
    conformIdTokenClaims,
    cookies: { keys: ['for signing its cookies'] },
    interactions: { url: (ctx, { uid }) => `/interaction/${uid}` },
    features: {
      devInteractions: { enabled: false }, // they fetch a font from outside
      rpInitiatedLogout: {
        enabled: true,
        logoutSource: (ctx, form) => {
          const button = '<button form="op.logoutForm" name="logout" value="yes">Log out</button>';
          ctx.body = page('Log out?', form + button);
        },
      },
    },
    findAccount: (ctx, sub) => {
      const found = accounts.find(({ claims }) => claims.sub === sub);
      return found && { accountId: sub, claims: () => found.claims };
    },
    renderError: (ctx, { error, error_description: description }) => {
      ctx.type = 'text';
      ctx.body = `${error}: ${description}`;
    },
  });
  provider.on('server_error', (ctx, error) => console.error(error));
  provider.use(async (ctx, next) => {
    if (ctx.path.startsWith('/interaction/')) {
      await interact(ctx, provider);
      return;
    }
    await next();
    if (ctx.path === '/token') tell({ sent: ctx.oidc?.params, given: ctx.body });
  });
  return provider;
}

createServer(newProvider(config).callback()).listen(new URL(config.issuer).port, '127.0.0.1', () => {
  tell({ listens: config.issuer });
});
process.stdin.on('end', () => process.exit()).resume();
