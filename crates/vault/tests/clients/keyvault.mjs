// Drives a Key Vault-compatible server with Microsoft's own JavaScript client, @azure/keyvault-keys.
//
// Prints a line of JSON for each call that was tried: what was called and what came of it. A line that begins with @ asks
// whoever runs this to do something to the server; a line on standard input says that it is done.

import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(process.env.COFFERDAM_NODE_MODULES + "/");
const { CryptographyClient, KeyClient } = require("@azure/keyvault-keys");

const url = process.env.VAULT_URL;
const client_id = process.env.VAULT_CLIENT;
const client_secret = process.env.VAULT_SECRET;
const OAEP = "RSA-OAEP-256";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

function tried(call, result) {
  console.log(JSON.stringify({ call, result }));
}

async function ask(what) {
  console.log("@" + what);
  assert.equal((await lines.next()).value, "done", what);
}

// Runs a call that the server must refuse.
async function refused(call, status, code) {
  try {
    await call();
  } catch (e) {
    assert.equal(e.statusCode, status, String(e));
    assert.equal(e.code, code);
    const inner = e.details.error.innerError?.code;
    return `${status} ${code}` + (inner ? ` ${inner}` : "");
  }
  assert.fail(`was not refused with ${status} ${code}`);
}

// Gets tokens by a client's secret from where the challenge says.
let asked = 0;
const credential = {
  async getToken(scopes, options) {
    assert.deepEqual([scopes].flat(), ["https://vault.azure.net/.default"]);
    asked += 1;
    const body = new URLSearchParams({
      grant_type: "client_credentials",
      client_id,
      client_secret,
      scope: "https://vault.azure.net/.default",
    });
    const answer = await fetch(`${url}/${options.tenantId}/oauth2/v2.0/token`, { method: "POST", body });
    assert.equal(answer.status, 200);
    const token = await answer.json();
    return { token: token.access_token, expiresOnTimestamp: Date.now() + token.expires_in * 1000 };
  },
};

const options = { disableChallengeResourceVerification: true };
const keys = new KeyClient(url, credential, options);
const crypto = (key) => new CryptographyClient(key, credential, options);
const same = (a, b) => assert.deepEqual(Buffer.from(a), Buffer.from(b));

const key = await keys.createRsaKey("js-rsa", { keySize: 2048, tags: { made: "by js" } });
assert.equal(asked, 1);
assert.equal(key.keyType, "RSA");
assert.equal(key.key.n.length, 256);
assert.equal(key.id, `${url}/keys/js-rsa/${key.properties.version}`);
assert.deepEqual(key.properties.tags, { made: "by js" });
assert.equal(key.properties.recoveryLevel, "Recoverable+Purgeable");
assert.equal(key.properties.recoverableDays, 90);
tried("KeyClient.createRsaKey (401, challenge, token)", "200");

assert.equal((await keys.getKey("js-rsa")).id, key.id);
assert.equal((await keys.getKey("js-rsa", { version: key.properties.version })).id, key.id);
assert.equal(asked, 1);
tried("KeyClient.getKey (latest, version)", "200");

const octet = await keys.createOctKey("js-oct", { keySize: 256, hsm: true });
assert.equal(octet.keyType, "oct-HSM");
tried("KeyClient.createOctKey (oct-HSM)", "200");

const second = await keys.createRsaKey("js-rsa");
const versions = new Set();
for await (const version of keys.listPropertiesOfKeyVersions("js-rsa")) versions.add(version.version);
assert.deepEqual(versions, new Set([key.properties.version, second.properties.version]));
tried("KeyClient.listPropertiesOfKeyVersions", "200, 2 versions");

const names = [];
for await (const page of keys.listPropertiesOfKeys().byPage({ maxPageSize: 1 })) {
  assert.ok(page.length <= 1);
  names.push(...page.map((p) => p.name));
}
assert.deepEqual(names, ["js-oct", "js-rsa"]);
tried("KeyClient.listPropertiesOfKeys (pages of 1)", "200, 2 keys");

const data = Buffer.from([...Array(32).keys()]);
// By its id alone the client knows no public half, so it has the server wrap.
const remote = crypto(second.id);
const wrapped = await remote.wrapKey(OAEP, data);
assert.equal(wrapped.result.length, 256);
same((await remote.unwrapKey(OAEP, wrapped.result)).result, data);
tried("CryptographyClient.wrapKey, unwrapKey RSA-OAEP-256", "200, the same 32 bytes");

const wrappedOct = await crypto(octet.id).wrapKey("A256KW", data);
assert.equal(wrappedOct.result.length, 40);
same((await crypto(octet.id).unwrapKey("A256KW", wrappedOct.result)).result, data);
tried("CryptographyClient.wrapKey, unwrapKey A256KW", "200, the same 32 bytes");

tried(
  "CryptographyClient.unwrapKey (damaged)",
  await refused(() => remote.unwrapKey(OAEP, Buffer.alloc(256)), 400, "BadParameter"),
);
tried(
  "CryptographyClient.unwrapKey RSA-OAEP",
  await refused(() => remote.unwrapKey("RSA-OAEP", wrapped.result), 400, "BadParameter"),
);

const pair = generateKeyPairSync("rsa", { modulusLength: 2048 });
const jwk = pair.privateKey.export({ format: "jwk" });
const parts = ["n", "e", "d", "p", "q", "dp", "dq", "qi"].map((part) => [part, Buffer.from(jwk[part], "base64url")]);
const brought = { kty: "RSA", keyOps: ["wrapKey", "unwrapKey"], ...Object.fromEntries(parts) };
const imported = await keys.importKey("js-imported", brought);
same(imported.key.n, brought.n);
assert.equal(imported.key.d, undefined);
const wrappedImported = await crypto(imported.id).wrapKey(OAEP, data);
same((await crypto(imported.id).unwrapKey(OAEP, wrappedImported.result)).result, data);
tried("KeyClient.importKey (RSA), unwrapKey", "200, the same 32 bytes");

const updated = await keys.updateKeyProperties("js-rsa", second.properties.version, { tags: { now: "changed" } });
assert.deepEqual(updated.properties.tags, { now: "changed" });
tried("KeyClient.updateKeyProperties (tags)", "200");

await keys.updateKeyProperties("js-rsa", second.properties.version, { enabled: false });
tried(
  "CryptographyClient.unwrapKey (disabled)",
  await refused(() => remote.unwrapKey(OAEP, wrapped.result), 403, "Forbidden"),
);
assert.equal((await keys.getKey("js-rsa")).properties.enabled, false);
tried("KeyClient.getKey (disabled)", "200, not enabled");
await keys.updateKeyProperties("js-rsa", second.properties.version, { enabled: true });
same((await remote.unwrapKey(OAEP, wrapped.result)).result, data);
tried("KeyClient.updateKeyProperties (enabled), unwrapKey", "200, the same 32 bytes");

const deleted = await (await keys.beginDeleteKey("js-rsa", { intervalInMs: 1 })).pollUntilDone();
assert.equal(deleted.properties.recoveryId, `${url}/deletedkeys/js-rsa`);
tried("KeyClient.beginDeleteKey", "200");
tried("KeyClient.getKey (deleted)", await refused(() => keys.getKey("js-rsa"), 404, "KeyNotFound"));
tried("KeyClient.createRsaKey (deleted)", await refused(() => keys.createRsaKey("js-rsa"), 409, "Conflict"));
const gone = [];
for await (const one of keys.listDeletedKeys()) gone.push(one.name);
assert.deepEqual(gone, ["js-rsa"]);
assert.equal((await keys.getDeletedKey("js-rsa")).name, "js-rsa");
tried("KeyClient.listDeletedKeys, getDeletedKey", "200");
const recovered = await (await keys.beginRecoverDeletedKey("js-rsa", { intervalInMs: 1 })).pollUntilDone();
assert.equal(recovered.id, second.id);
same((await remote.unwrapKey(OAEP, wrapped.result)).result, data);
tried("KeyClient.beginRecoverDeletedKey, unwrapKey", "200, the same 32 bytes");
await (await keys.beginDeleteKey("js-imported", { intervalInMs: 1 })).pollUntilDone();
await keys.purgeDeletedKey("js-imported");
tried(
  "KeyClient.purgeDeletedKey, getDeletedKey",
  await refused(() => keys.getDeletedKey("js-imported"), 404, "KeyNotFound"),
);

await ask("deny");
tried("KeyClient.getKey (permission taken)", await refused(() => keys.getKey("js-rsa"), 403, "Forbidden"));
await ask("allow");
const before = asked;
await ask("expire");
// This client believes a token for as long as it was told when it got it, and shows a 401 that comes before.
tried("KeyClient.getKey (token ended early)", await refused(() => keys.getKey("js-rsa"), 401, "Unauthorized"));
const fresh = new KeyClient(url, credential, options);
assert.equal((await fresh.getKey("js-rsa")).id, second.id);
assert.equal(asked, before + 1);
tried("KeyClient.getKey (of a new client)", "401, challenge, a new token, 200");

await ask("throttle-once");
assert.equal((await fresh.getKey("js-rsa")).id, second.id);
tried("KeyClient.getKey (throttled once)", "429, Retry-After: 1, 200");
await ask("throttle");
const impatient = new KeyClient(url, credential, { ...options, retryOptions: { maxRetries: 0 } });
tried("KeyClient.getKey (throttled, no retries)", await refused(() => impatient.getKey("js-rsa"), 429, "Throttled"));
await ask("unthrottle");
assert.equal((await fresh.getKey("js-rsa")).id, second.id);
process.exit(0);
