use proptest::prelude::*;

use super::*;

fn key(byte: u8) -> ReceiptKey {
    ReceiptKey::try_from_fn(|seed| {
        seed.fill(byte);
        Ok::<_, std::convert::Infallible>(())
    })
    .unwrap()
}

fn statement() -> Statement {
    Statement {
        key_id: KeyId::new("local://customer/keys/payroll/1").unwrap(),
        issued_at: Duration::from_millis(1_795_000_000_123),
        examined: Examined {
            accounts: 3,
            archives: 1,
            deleted_accounts: 2,
            nodes: 4,
            operations: 5,
            segments: 6,
            wraps: 9,
        },
        id: [0xa1; 16],
    }
}

fn receipt() -> Receipt {
    key(7).sign(statement()).unwrap()
}

/// The receipt of the vectors, and its issuer's public key: published, so never changed.
fn frozen() -> [String; 2] {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/receipt.json");
    let vector: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    ["receipt", "public_key"].map(|field| vector[field].as_str().unwrap().to_owned())
}

#[test]
fn a_receipt_is_what_it_always_was() {
    let [frozen, public] = frozen();
    assert_eq!(key(7).public().to_string(), public);
    assert_eq!(receipt().to_string(), frozen);
    let read: Receipt = frozen.parse().unwrap();
    read.verify(&public.parse().unwrap()).unwrap();
    assert_eq!(read, receipt());
    assert_eq!(read.statement(), &statement());
}

#[test]
fn the_signature_is_that_of_rfc_8032() {
    // Section 7.1, test 2: the seed and its public key.
    let seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
    let key = ReceiptKey::try_from_fn(|to| hex(seed).map(|from| *to = from).ok_or(())).unwrap();
    assert_eq!(key.public().to_string(), "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
    let receipt = key.sign(statement()).unwrap();
    let (signed, signature) = receipt.as_bytes().split_at(receipt.as_bytes().len() - 129);
    let signature: [u8; 64] = hex(std::str::from_utf8(&signature[..128]).unwrap()).unwrap();
    assert_eq!(signed.iter().filter(|&&b| b == b'\n').count(), 2, "two lines are signed");
    SigningKey::from_bytes(&hex(seed).unwrap())
        .verifying_key()
        .verify_strict(signed, &Signature::from_bytes(&signature))
        .unwrap();
}

#[test]
fn a_receipt_is_right_for_its_issuer_alone() {
    let receipt = receipt();
    receipt.verify(&key(7).public()).unwrap();
    let other = ReceiptError::OtherIssuer { found: key(7).public(), expected: key(8).public() };
    assert_eq!(receipt.verify(&key(8).public()), Err(other));

    // Somebody who names the issuer, and signs with a key of his own.
    let signed = spell(&statement(), &key(7).public()).unwrap();
    let signature = SigningKey::from_bytes(&[8; 32]).sign(signed.as_bytes());
    let forged = Receipt::new(statement(), key(7).public(), signed, signature);
    assert_eq!(forged.verify(&key(7).public()), Err(ReceiptError::Forged));
    let forged: Receipt = forged.to_string().parse().unwrap();
    assert_eq!(forged.verify(&key(7).public()), Err(ReceiptError::Forged));
}

#[test]
fn no_field_can_be_changed() {
    let changes: [fn(&mut Statement); 11] = [
        |s| s.key_id = KeyId::new("local://customer/keys/payroll/2").unwrap(),
        |s| s.issued_at += Duration::from_millis(1),
        |s| s.id[15] ^= 1,
        |s| s.examined.accounts += 1,
        |s| s.examined.archives += 1,
        |s| s.examined.deleted_accounts += 1,
        |s| s.examined.nodes += 1,
        |s| s.examined.operations += 1,
        |s| s.examined.segments += 1,
        |s| s.examined.wraps += 1,
        |s| s.examined.wraps -= 1,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut changed = statement();
        change(&mut changed);
        let signed = spell(&changed, &key(7).public()).unwrap();
        let text = Receipt::new(changed, key(7).public(), signed, receipt().signature).to_string();
        let read: Receipt = text.parse().unwrap();
        assert_eq!(read.verify(&key(7).public()), Err(ReceiptError::Forged), "change {n}");
    }
}

#[test]
fn no_flipped_bit_no_cut_and_nothing_added_is_believed() {
    let whole = receipt().as_bytes().to_vec();
    let believed = |bytes: &[u8]| Receipt::from_bytes(bytes).and_then(|read| read.verify(&key(7).public()));
    believed(&whole).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        for bit in 0..8 {
            flipped[at] = whole[at] ^ (1 << bit);
            believed(&flipped).unwrap_err();
        }
        believed(&whole[..at]).unwrap_err();
    }
    for more in ["\n", " ", "x", "\0", "\r\n"] {
        believed(&[&whole[..], more.as_bytes()].concat()).unwrap_err();
        believed(&[more.as_bytes(), &whole[..]].concat()).unwrap_err();
    }
    believed(&whole.repeat(2)).unwrap_err();
    believed(&vec![b'x'; 1 << 20]).unwrap_err();
}

#[test]
fn one_statement_has_one_spelling() {
    let text = receipt().to_string();
    let others = [
        text.replacen("{\"claim\"", "{ \"claim\"", 1),
        text.replacen("\"accounts\":3,\"archives\":1", "\"archives\":1,\"accounts\":3", 1),
        text.replacen("\"accounts\":3", "\"accounts\":3,\"accounts\":3", 1),
        text.replacen("\"accounts\":3", "\"accounts\":3.0", 1),
        text.replacen("payroll", "pay\\u0072oll", 1),
        text.replacen("\n", "\r\n", 3),
        text.to_uppercase(),
        text.replacen("safe-to-disable", "safe-to-delete", 1),
        text.replacen("\"claim\"", "\"more\":1,\"claim\"", 1),
    ];
    for other in others {
        assert_ne!(other, text);
        let error = other.parse::<Receipt>().unwrap_err();
        assert!(matches!(error, ReceiptError::Malformed { .. }), "{other}: {error}");
    }
}

#[test]
fn a_later_format_is_said_to_be_that() {
    let later = receipt().to_string().replacen("receipt 1", "receipt 2", 1);
    assert_eq!(later.parse::<Receipt>(), Err(ReceiptError::Newer { found: "2".into() }));
}

#[test]
fn weak_and_malformed_public_keys_are_refused() {
    let identity = format!("01{}", "00".repeat(31));
    // The y of no point; zero, of order 4; the identity again, unreduced.
    let unreduced = format!("ee{}7f", "ff".repeat(30));
    let none = format!("02{}", "00".repeat(31));
    for bad in [
        "",
        "00",
        &"00".repeat(32),
        &identity,
        &unreduced,
        &none,
        &key(7).public().to_string().to_uppercase(),
    ] {
        assert_eq!(bad.parse::<ReceiptPublicKey>(), Err(ReceiptError::NotAPublicKey), "{bad}");
    }
}

#[test]
fn what_json_does_not_hold_exactly_is_not_stated() {
    let examined = Examined { wraps: MAX_NUMBER, ..Examined::default() };
    key(7).sign(Statement { examined, ..statement() }).unwrap();
    let examined = Examined { wraps: MAX_NUMBER + 1, ..Examined::default() };
    let error = key(7).sign(Statement { examined, ..statement() }).unwrap_err();
    assert_eq!(error, ReceiptError::OutOfRange);
    let error = key(7).sign(Statement { issued_at: Duration::MAX, ..statement() }).unwrap_err();
    assert_eq!(error, ReceiptError::OutOfRange);
}

#[test]
fn the_longest_receipt_is_read() {
    let examined = Examined {
        accounts: MAX_NUMBER,
        archives: MAX_NUMBER,
        deleted_accounts: MAX_NUMBER,
        nodes: MAX_NUMBER,
        operations: MAX_NUMBER,
        segments: MAX_NUMBER,
        wraps: MAX_NUMBER,
    };
    let key_id = KeyId::new("\\".repeat(KeyId::MAX_LEN)).unwrap();
    let issued_at = Duration::from_millis(MAX_NUMBER);
    let longest = key(7).sign(Statement { key_id, issued_at, examined, id: [0xff; 16] }).unwrap();
    let read = Receipt::from_bytes(longest.as_bytes()).unwrap();
    read.verify(&key(7).public()).unwrap();
}

#[test]
fn no_seed_is_printed() {
    assert_eq!(format!("{:?}", key(7)), "ReceiptKey(..)");
}

#[cfg(cofferdam_planted)]
#[test]
fn a_receipt_that_nobody_checks_shows() {
    cofferdam_crypto::planted::plant(Some(Bug::ReceiptUnchecked));
    let mut forged = receipt();
    forged.signature = Signature::from_bytes(&[0; 64]);
    let believed = forged.verify(&key(7).public());
    cofferdam_crypto::planted::plant(None);
    assert_eq!(believed, Ok(()));
}

proptest! {
    #[test]
    fn any_statement_is_read_as_it_was_signed(
        uri in "[!-~]{1,64}", millis in 0..=MAX_NUMBER, n in prop::array::uniform7(0..=MAX_NUMBER), id: [u8; 16], seed: u8,
    ) {
        let [accounts, archives, deleted_accounts, nodes, operations, segments, wraps] = n;
        let examined = Examined { accounts, archives, deleted_accounts, nodes, operations, segments, wraps };
        let statement = Statement {
            key_id: KeyId::new(uri).unwrap(), issued_at: Duration::from_millis(millis), examined, id,
        };
        let receipt = key(seed).sign(statement.clone()).unwrap();
        let read = Receipt::from_bytes(receipt.as_bytes()).unwrap();
        read.verify(&key(seed).public()).unwrap();
        prop_assert_eq!(read.statement(), &statement);
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..512), after_label: bool) {
        let bytes = if after_label { [LABEL.as_bytes(), &bytes].concat() } else { bytes };
        prop_assert!(Receipt::from_bytes(&bytes).is_err());
    }
}
