//! Certificates in every form they come in.

use p12_keystore::{
    Certificate as PfxCertificate, KeyStore, KeyStoreEntry, PrivateKey as PfxKey, PrivateKeyChain,
};
use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::source::budget::Budget;

fn place() -> Place {
    Place { certificate: Source::File("/c.pem".into()), private_key: None, password: None }
}

fn apart() -> Place {
    Place { private_key: Some(Source::File("/k.pem".into())), ..place() }
}

fn made(key: &KeyPair) -> rcgen::Certificate {
    CertificateParams::new(["client.example".to_owned()]).unwrap().self_signed(key).unwrap()
}

fn pfx(certificate: &rcgen::Certificate, key: &KeyPair, password: &str) -> Vec<u8> {
    let mut store = KeyStore::new();
    let key = PfxKey::from_der(&key.serialize_der()).unwrap();
    let chain =
        PrivateKeyChain::new(b"1".to_vec(), key, [PfxCertificate::from_der(certificate.der()).unwrap()]);
    store.add_entry("client", KeyStoreEntry::PrivateKeyChain(chain));
    store.writer(password).write().unwrap()
}

fn words(document: &[u8], place: &Place, key: Option<&[u8]>, password: Option<&str>) -> String {
    let password = password.map(|text| Secret::new(text.into()));
    Certificate::read(place, document, key, password.as_ref()).unwrap_err().to_string()
}

#[test]
fn pem_in_any_order_and_pfx_give_the_same_certificate() {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let certificate = made(&key);
    let (pem, key_pem) = (certificate.pem(), key.serialize_pem());
    let other = made(&KeyPair::generate().unwrap()).pem();
    let read = |document: &[u8], place: &Place, key: Option<&[u8]>, password: Option<&str>| {
        let password = password.map(|text| Secret::new(text.into()));
        Certificate::read(place, document, key, password.as_ref()).unwrap()
    };
    let expected = read(format!("{pem}{key_pem}").as_bytes(), &place(), None, None);
    let sha256 = BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, certificate.der()));
    assert_eq!(expected.thumbprint_sha256(), sha256);
    assert_eq!((expected.thumbprint_sha256().len(), expected.thumbprint_sha1().len()), (43, 27));
    for same in [
        read(format!("{key_pem}{pem}").as_bytes(), &place(), None, None),
        read(pem.as_bytes(), &apart(), Some(key_pem.as_bytes()), None),
        // The authority's certificate came first.
        read(format!("{other}{pem}{key_pem}").as_bytes(), &place(), None, None),
        read(&pfx(&certificate, &key, "p"), &place(), None, Some("p")),
        read(&pfx(&certificate, &key, ""), &place(), None, None),
        read(expected.pem().expose().as_bytes(), &place(), None, None),
    ] {
        assert_eq!(same.thumbprint_sha256(), sha256);
    }
}

#[test]
fn what_is_wrong_with_a_certificate_is_told_with_the_file_to_look_at() {
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let certificate = made(&key);
    let (pem, key_pem) = (certificate.pem(), key.serialize_pem());
    let pfx = pfx(&certificate, &key, "right");
    let encrypted = key_pem.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let hollow = format!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{key_pem}");
    let check = |said: String, expected: &str| assert!(said.contains(expected), "{said}");
    check(words(b"hello", &place(), None, None), "file /c.pem holds no certificate");
    check(words(key_pem.as_bytes(), &place(), None, None), "file /c.pem holds no certificate");
    check(words(pem.as_bytes(), &place(), None, None), "holds a certificate but not its private key");
    check(words(format!("{pem}{encrypted}").as_bytes(), &place(), None, None), "key that is encrypted");
    check(words(hollow.as_bytes(), &place(), None, None), "the certificate in file /c.pem cannot be read");
    check(
        words(pem.as_bytes(), &apart(), Some(other.serialize_pem().as_bytes()), None),
        "the private key in file /k.pem does not belong to the certificate in file /c.pem",
    );
    check(words(pem.as_bytes(), &apart(), Some(pem.as_bytes()), None), "file /k.pem holds no private key");
    check(words(&pfx, &place(), None, Some("wrong")), "the password is wrong");
    check(words(&pfx, &place(), None, None), "it needs a password");
    check(words(certificate.der(), &place(), None, None), "a certificate in binary form");
    check(words(pfx.get(..100).unwrap(), &place(), None, Some("right")), "it is damaged");
}

#[test]
fn an_encrypted_key_is_opened_with_its_password_only() {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let (plain, encrypted) = (folder.path().join("plain"), folder.path().join("encrypted"));
    let plain_pem = key.serialize_pem();
    std::fs::write(&plain, &plain_pem).unwrap();
    let output = std::process::Command::new("openssl")
        .args(["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:open", "-in"])
        .arg(&plain)
        .arg("-out")
        .arg(&encrypted)
        .output()
        .expect("openssl is installed");
    assert!(output.status.success());
    let document = made(&key).pem() + &std::fs::read_to_string(encrypted).unwrap();
    let password = Secret::new("open".into());
    assert!(Certificate::read(&place(), document.as_bytes(), None, Some(&password)).is_ok());
    let said = words(document.as_bytes(), &place(), None, Some("wrong"));
    assert!(said.starts_with("the private key in file /c.pem cannot be decrypted"), "{said}");
    let said = words(document.as_bytes(), &place(), None, None);
    assert!(said.contains("see certificate_password"), "{said}");
    // As OpenSSL wrote them before 1.0: a password does not help here, and the words say what does.
    let old = plain_pem.replace("PRIVATE KEY-----\n", "PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n");
    let old = made(&key).pem() + &old;
    let said = words(old.as_bytes(), &place(), None, Some("open"));
    assert!(said.contains("openssl pkcs8 -topk8"), "{said}");
}

#[tokio::test]
async fn a_half_replaced_pair_keeps_the_old_one_until_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();
    let (old, new) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    write("c", &made(&old).pem());
    write("k", &old.serialize_pem());
    let place = Place {
        certificate: Source::File(path("c")),
        private_key: Some(Source::File(path("k"))),
        password: None,
    };
    let holder = Holder::new(place);
    let (first, flaw) = holder.read(&Budget::endless()).await.unwrap();
    assert_eq!(flaw, None);
    write("c", &made(&new).pem());
    let (kept, flaw) = holder.read(&Budget::endless()).await.unwrap();
    assert!(matches!(flaw, Some(CertificateError::Mismatch { .. })), "{flaw:?}");
    assert_eq!(kept.thumbprint_sha256(), first.thumbprint_sha256());
    write("k", &new.serialize_pem());
    let (next, flaw) = holder.read(&Budget::endless()).await.unwrap();
    assert!(flaw.is_none() && next.thumbprint_sha256() != first.thumbprint_sha256());
}
