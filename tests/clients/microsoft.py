"""Microsoft's own libraries, as they are installed, against the demo's identity provider.

Arguments: the provider's URL, the PEM file that its certificate is checked with, the URL of the same provider's plain
HTTP door for machines, a folder. Reads commands, one a line, and prints the claims of the token that came, or why none
came, one a line.

Commands: `msal secret`, `msal cae`, `msal policy`, `msal certificate`, `msal app_service`, `msal imds`, `azure secret`,
`azure certificate`, `azure workload`, `azure app_service`, `azure imds`. The folder holds `client` (id and secret),
`scope`, `workload.jwt`, `client.pem` (certificate and key), `client.key` and `thumbprint`, as far as a command needs
them.
"""

import base64
import json
import os
import pathlib
import sys

# These would win over what the libraries are told below.
for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
    os.environ.pop(name, None)

import azure.identity
import msal
import requests

TENANT = "contoso.onmicrosoft.com"
BASE, CA, MACHINE, FOLDER = sys.argv[1:5]


def content(name):
    return (pathlib.Path(FOLDER) / name).read_text()


def claims(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def surround(kind):
    """Pretends to be a machine of Azure's."""
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "AZURE_POD_IDENTITY_AUTHORITY_HOST"):
        os.environ.pop(name, None)
    if kind == "app_service":
        os.environ["IDENTITY_ENDPOINT"] = MACHINE + "/msi/token"
        os.environ["IDENTITY_HEADER"] = "demo-identity-header"
    elif kind == "imds":
        os.environ["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = MACHINE


def with_msal(kind):
    client_id, secret = content("client").split("\n", 1)
    scope = content("scope")
    if kind in ("app_service", "imds"):
        session = requests.Session()
        session.trust_env = False
        client = msal.ManagedIdentityClient(msal.SystemAssignedManagedIdentity(), http_client=session)
        answer = client.acquire_token_for_client(resource=scope.removesuffix("/.default"))
    else:
        authority = f"{BASE}/{TENANT}"
        if kind == "policy":
            authority += "/B2C_1_service"
        if kind == "certificate":
            secret = {"private_key": content("client.key"), "thumbprint": content("thumbprint")}
        client = msal.ConfidentialClientApplication(
            client_id,
            client_credential=secret,
            authority=authority,
            verify=CA,
            instance_discovery=False if kind != "policy" else None,
            client_capabilities=["cp1"] if kind == "cae" else None,
        )
        answer = client.acquire_token_for_client([scope])
    if "access_token" not in answer:
        raise ValueError(f"{answer.get('error')}: {answer.get('error_description')}")
    return answer["access_token"]


def with_azure_identity(kind):
    client_id, secret = content("client").split("\n", 1)
    known = {"authority": BASE, "connection_verify": CA, "disable_instance_discovery": True}
    if kind in ("app_service", "imds"):
        credential = azure.identity.ManagedIdentityCredential()
    elif kind == "workload":
        path = str(pathlib.Path(FOLDER) / "workload.jwt")
        credential = azure.identity.WorkloadIdentityCredential(
            tenant_id=TENANT, client_id=client_id, token_file_path=path, **known
        )
    elif kind == "certificate":
        path = str(pathlib.Path(FOLDER) / "client.pem")
        credential = azure.identity.CertificateCredential(TENANT, client_id, path, **known)
    else:
        credential = azure.identity.ClientSecretCredential(TENANT, client_id, secret, **known)
    return credential.get_token(content("scope")).token


def main():
    for line in sys.stdin:
        library, kind = line.split()
        surround(kind)
        ask = {"msal": with_msal, "azure": with_azure_identity}[library]
        try:
            print(json.dumps(claims(ask(kind))), flush=True)
        except Exception as error:  # What went wrong is what the test shows.
            print("no token:", type(error).__name__, str(error).replace("\n", " "), flush=True)


main()
