"""Drives a Key Vault-compatible server with Microsoft's own Python client, azure-keyvault-keys.

Prints a line of JSON for each call that was tried: what was called and what came of it. A line that begins with @ asks
whoever runs this to do something to the server; a line on standard input says that it is done.
"""

import json
import os
import ssl
import sys
import time
import urllib.parse
import urllib.request

from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.core.rest import HttpRequest
from azure.keyvault.keys import JsonWebKey, KeyClient, KeyOperation
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa

URL = os.environ["VAULT_URL"]
CA = os.environ["VAULT_CA"]
CLIENT = os.environ["VAULT_CLIENT"]
SECRET = os.environ["VAULT_SECRET"]

OAEP = KeyWrapAlgorithm.rsa_oaep_256
KW = KeyWrapAlgorithm.aes_256


def tried(call, result):
    print(json.dumps({"call": call, "result": result}), flush=True)


def ask(what):
    print("@" + what, flush=True)
    assert sys.stdin.readline().strip() == "done", what


def refused(call, kind, status, code, inner):
    """Runs a call that the server must refuse."""
    try:
        call()
    except kind as e:
        body = e.response.json()["error"]
        got = (e.status_code, e.error.code, body.get("innererror", {}).get("code"))
        assert got == (status, code, inner), (got, body)
        return f"{status} {code}" + (f" {inner}" if inner else "")
    raise AssertionError(f"was not refused with {status} {code}")


class ClientSecret:
    """Gets tokens by a client's secret from where the challenge says."""

    def __init__(self):
        self.asked = 0

    def get_token(self, *scopes, tenant_id=None, **_):
        assert scopes == ("https://vault.azure.net/.default",), scopes
        self.asked += 1
        form = {
            "grant_type": "client_credentials",
            "client_id": CLIENT,
            "client_secret": SECRET,
            "scope": scopes[0],
        }
        request = urllib.request.Request(
            f"{URL}/{tenant_id}/oauth2/v2.0/token", urllib.parse.urlencode(form).encode()
        )
        with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=CA)) as answer:
            token = json.load(answer)
        assert token["token_type"] == "Bearer", token
        return AccessToken(token["access_token"], int(time.time()) + token["expires_in"])


credential = ClientSecret()
OPTIONS = {"verify_challenge_resource": False, "connection_verify": CA}
statuses = []


def seen(response):
    statuses.append(response.http_response.status_code)


def client(**more):
    return KeyClient(URL, credential, **OPTIONS, raw_response_hook=seen, **more)


keys = client()

# A first call: challenge, token, answer.
key = keys.create_rsa_key("python-rsa", size=2048, tags={"made": "by python"})
assert credential.asked == 1 and statuses == [401, 200], (credential.asked, statuses)
assert key.key_type == "RSA" and len(key.key.n) == 256 and key.key.e == b"\x01\x00\x01", key.key
assert key.properties.tags == {"made": "by python"} and key.properties.enabled
assert key.properties.recovery_level == "Recoverable+Purgeable" and key.properties.recoverable_days == 90
assert key.id == f"{URL}/keys/python-rsa/{key.properties.version}", key.id
tried("KeyClient.create_rsa_key (401, challenge, token)", "200")

got = keys.get_key("python-rsa")
assert got.id == key.id and got.key.n == key.key.n and got.key_operations == key.key_operations
assert keys.get_key("python-rsa", key.properties.version).id == key.id
assert credential.asked == 1
tried("KeyClient.get_key (latest, version)", "200")

hsm = keys.create_rsa_key("python-rsa-hsm", size=3072, hardware_protected=True)
assert hsm.key_type == "RSA-HSM" and len(hsm.key.n) == 384
tried("KeyClient.create_rsa_key (3072, RSA-HSM)", "200")

octet = keys.create_oct_key("python-oct", size=256, hardware_protected=True)
assert octet.key_type == "oct-HSM" and octet.key.k is None
tried("KeyClient.create_oct_key (oct-HSM)", "200")

second = keys.create_rsa_key("python-rsa", size=2048)
versions = {v.version for v in keys.list_properties_of_key_versions("python-rsa")}
assert versions == {key.properties.version, second.properties.version}, versions
tried("KeyClient.list_properties_of_key_versions", "200, 2 versions")

names = [p.name for p in keys.list_properties_of_keys(max_page_size=2)]
assert names == ["python-oct", "python-rsa", "python-rsa-hsm"], names
tried("KeyClient.list_properties_of_keys (pages of 2)", "200, 3 keys")

# Wrapped here by the public half, unwrapped by the server.
data = bytes(range(32))
crypto = CryptographyClient(second, credential, **OPTIONS)
wrapped = crypto.wrap_key(OAEP, data)
assert len(wrapped.encrypted_key) == 256
assert crypto.unwrap_key(OAEP, wrapped.encrypted_key).key == data
tried("CryptographyClient.wrap_key (local), unwrap_key RSA-OAEP-256", "200, the same 32 bytes")

# Wrapped by the server: of an oct key nobody else has anything.
crypto_oct = CryptographyClient(octet, credential, **OPTIONS)
wrapped_oct = crypto_oct.wrap_key(KW, data)
assert len(wrapped_oct.encrypted_key) == 40 and wrapped_oct.key_id == octet.id
assert crypto_oct.unwrap_key(KW, wrapped_oct.encrypted_key).key == data
tried("CryptographyClient.wrap_key, unwrap_key A256KW", "200, the same 32 bytes")

# And the server's own RSA wrap, through the client's pipeline.
path = f"/keys/python-rsa/{second.properties.version}/wrapkey?api-version=2025-07-01"
request = HttpRequest("POST", path, json={"alg": "RSA-OAEP-256", "value": "AAECAwQFBgcICQoLDA0ODw"})
answer = keys.send_request(request)
answer.raise_for_status()
assert answer.json()["kid"] == second.id, answer.json()
tried("KeyClient.send_request wrapkey RSA-OAEP-256", "200")

for algorithm in ("RSA-OAEP", "RSA1_5"):
    value = {"alg": algorithm, "value": "AAECAwQFBgcICQoLDA0ODw"}
    answer = keys.send_request(HttpRequest("POST", path, json=value))
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "BadParameter", answer.json()
tried("wrapkey RSA-OAEP, RSA1_5", "400 BadParameter")

result = refused(
    lambda: crypto.unwrap_key(OAEP, bytes(256)), HttpResponseError, 400, "BadParameter", None
)
tried("CryptographyClient.unwrap_key (damaged)", result)

# Import.
private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
numbers = private.private_numbers()


def number(value):
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


jwk = JsonWebKey(
    kty="RSA",
    key_ops=["wrapKey", "unwrapKey"],
    n=number(numbers.public_numbers.n),
    e=number(numbers.public_numbers.e),
    d=number(numbers.d),
    p=number(numbers.p),
    q=number(numbers.q),
    dp=number(numbers.dmp1),
    dq=number(numbers.dmq1),
    qi=number(numbers.iqmp),
)
imported = keys.import_key("python-imported", jwk)
assert imported.key.n == jwk.n and imported.key.d is None
assert set(imported.key_operations) == {KeyOperation.wrap_key, KeyOperation.unwrap_key}
crypto_imported = CryptographyClient(imported, credential, **OPTIONS)
wrapped_imported = crypto_imported.wrap_key(OAEP, data)
assert crypto_imported.unwrap_key(OAEP, wrapped_imported.encrypted_key).key == data
tried("KeyClient.import_key (RSA), unwrap_key", "200, the same 32 bytes")

# Update, disable, enable.
updated = keys.update_key_properties("python-rsa", second.properties.version, tags={"now": "changed"})
assert updated.properties.tags == {"now": "changed"}
assert updated.properties.updated_on >= updated.properties.created_on
tried("KeyClient.update_key_properties (tags)", "200")

keys.update_key_properties("python-rsa", second.properties.version, enabled=False)
result = refused(
    lambda: crypto.unwrap_key(OAEP, wrapped.encrypted_key), HttpResponseError, 403, "Forbidden", "KeyDisabled"
)
tried("CryptographyClient.unwrap_key (disabled)", result)
assert keys.get_key("python-rsa").properties.enabled is False
tried("KeyClient.get_key (disabled)", "200, not enabled")
keys.update_key_properties("python-rsa", second.properties.version, enabled=True)
assert crypto.unwrap_key(OAEP, wrapped.encrypted_key).key == data
tried("KeyClient.update_key_properties (enabled), unwrap_key", "200, the same 32 bytes")

# Delete, recover, purge.
deleted = keys.begin_delete_key("python-rsa").result()
assert deleted.recovery_id == f"{URL}/deletedkeys/python-rsa", deleted.recovery_id
assert (deleted.scheduled_purge_date - deleted.deleted_date).days == 90
tried("KeyClient.begin_delete_key", "200")
result = refused(lambda: keys.get_key("python-rsa"), ResourceNotFoundError, 404, "KeyNotFound", None)
tried("KeyClient.get_key (deleted)", result)
result = refused(
    lambda: crypto.unwrap_key(OAEP, wrapped.encrypted_key), ResourceNotFoundError, 404, "KeyNotFound", None
)
tried("CryptographyClient.unwrap_key (deleted)", result)
result = refused(
    lambda: keys.create_rsa_key("python-rsa"), ResourceExistsError, 409, "Conflict", "ObjectIsDeletedButRecoverable"
)
tried("KeyClient.create_rsa_key (deleted)", result)
assert [k.name for k in keys.list_deleted_keys()] == ["python-rsa"]
assert keys.get_deleted_key("python-rsa").name == "python-rsa"
tried("KeyClient.list_deleted_keys, get_deleted_key", "200")
recovered = keys.begin_recover_deleted_key("python-rsa").result()
assert recovered.id == second.id, recovered.id
assert crypto.unwrap_key(OAEP, wrapped.encrypted_key).key == data
tried("KeyClient.begin_recover_deleted_key, unwrap_key", "200, the same 32 bytes")
keys.begin_delete_key("python-imported").result()
keys.purge_deleted_key("python-imported")
result = refused(
    lambda: keys.get_deleted_key("python-imported"), ResourceNotFoundError, 404, "KeyNotFound", None
)
tried("KeyClient.purge_deleted_key, get_deleted_key", result)

# Permissions, tokens, throttling.
ask("deny")
result = refused(lambda: keys.get_key("python-rsa"), HttpResponseError, 403, "Forbidden", "AccessDenied")
tried("KeyClient.get_key (permission taken)", result)
ask("allow")
before = credential.asked
ask("expire")
statuses.clear()
assert keys.get_key("python-rsa").id == second.id
assert credential.asked == before + 1 and statuses == [401, 200], (credential.asked, statuses)
tried("KeyClient.get_key (token expired)", "401, challenge, a new token, 200")

ask("throttle-once")
statuses.clear()
assert keys.get_key("python-rsa").id == second.id
assert statuses == [429, 200], statuses
tried("KeyClient.get_key (throttled once)", "429, Retry-After: 1, 200")
ask("throttle")
impatient = client(retry_total=0)
try:
    impatient.get_key("python-rsa")
    raise AssertionError("was not throttled")
except HttpResponseError as e:
    assert e.status_code == 429 and e.error.code == "Throttled", e
    assert e.response.headers["Retry-After"] == "1"
tried("KeyClient.get_key (throttled, no retries)", "429 Throttled")
ask("unthrottle")
assert keys.get_key("python-rsa").id == second.id

try:
    KeyClient(URL, credential, verify_challenge_resource=False, retry_total=0).get_key("python-rsa")
    raise AssertionError("believed a certificate of nobody's")
except Exception as e:
    assert "CERTIFICATE_VERIFY_FAILED" in str(e), e
tried("KeyClient.get_key (authority not trusted)", "refused by the client")
