//! How AWS KMS names its keys: `arn:PARTITION:kms:REGION:ACCOUNT:key/ID` and `arn:PARTITION:kms:REGION:ACCOUNT:alias/NAME`.
//!
//! Guarantees: one key has one spelling in each region, and a multi-region key one spelling for all of them
//! ([`Territory::spelled`]); an ARN of another partition, account or region is refused before anything is sent. Not its
//! job: whether there is such a key.

use std::fmt;

use cofferdam_crypto::KeyId;

/// What a key id must look like.
pub(super) const SHAPE: &str =
    "one looks like arn:aws:kms:REGION:ACCOUNT:key/ID or arn:aws:kms:REGION:ACCOUNT:alias/NAME";

const MULTI_REGION: &str = "mrk-";
/// Names AWS keeps for keys that it manages itself: no customer can take one away.
const RESERVED_ALIAS: &str = "aws/";
const MAX_ALIAS: usize = 250;

/// What an ARN is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    /// A key, by its id: a UUID, or `mrk-` and 32 hex digits.
    Key(String),
    /// Whichever key the alias stands for now.
    Alias(String),
}

/// The parts of a key's ARN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arn {
    pub(super) partition: String,
    pub(super) region: String,
    pub(super) account: String,
    pub(super) resource: Resource,
}

impl Arn {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = text.splitn(6, ':');
        let (Some("arn"), Some(partition), Some("kms"), Some(region), Some(account), Some(resource)) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(SHAPE);
        };
        if !is_name(partition) {
            return Err("its partition is none: it is aws, aws-cn or aws-us-gov");
        }
        if !is_name(region) {
            return Err("its region is none: one looks like eu-west-1");
        }
        if !is_account(account) {
            return Err("an account has 12 digits");
        }
        let resource = match resource.split_once('/') {
            Some(("key", id)) if is_key(id) => Resource::Key(id.into()),
            Some(("key", _)) => {
                return Err("a key's id is a UUID in lower case, or mrk- and 32 hex digits in lower case");
            }
            Some(("alias", name)) if name.starts_with(RESERVED_ALIAS) => {
                return Err("AWS manages that key, so nobody could take it away: make one of your own");
            }
            Some(("alias", name)) if is_alias(name) => Resource::Alias(name.into()),
            Some(("alias", _)) => {
                return Err("an alias has 1 to 250 letters, digits, hyphens, underscores and slashes");
            }
            _ => return Err(SHAPE),
        };
        Ok(Self { partition: partition.into(), region: region.into(), account: account.into(), resource })
    }

    /// Whether it names one key for good, which an alias does not.
    pub(super) fn is_key(&self) -> bool {
        matches!(self.resource, Resource::Key(_))
    }

    fn is_multi_region(&self) -> bool {
        matches!(&self.resource, Resource::Key(id) if id.starts_with(MULTI_REGION))
    }

    fn in_region(mut self, region: &str) -> Self {
        self.region = region.into();
        self
    }
}

impl fmt::Display for Arn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arn:{}:kms:{}:{}:", self.partition, self.region, self.account)?;
        match &self.resource {
            Resource::Key(id) => write!(f, "key/{id}"),
            Resource::Alias(name) => write!(f, "alias/{name}"),
        }
    }
}

/// Whose keys a vault asks for, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Territory {
    pub(super) partition: String,
    /// Where requests go.
    pub(super) region: String,
    pub(super) accounts: Vec<String>,
    /// The region that multi-region keys are spelled with.
    pub(super) home: String,
    /// The regions whose multi-region keys are the same keys, `region` and `home` among them.
    pub(super) same: Vec<String>,
}

impl Territory {
    /// The ARN of a key id of this territory.
    pub(super) fn parse(&self, key_id: &KeyId) -> Result<Arn, &'static str> {
        let arn = Arn::parse(key_id.as_str())?;
        if arn.partition != self.partition {
            return Err("it is in another partition of AWS; use the vault of that one");
        }
        if !self.accounts.contains(&arn.account) {
            return Err(
                "it is another AWS account's; use the vault of that one, or add the account to this one",
            );
        }
        let reached = arn.region == self.region || arn.is_multi_region() && self.same.contains(&arn.region);
        if !reached {
            return Err(
                "it is in another region; use the vault of that one, or name the regions that have the \
                 same multi-region keys",
            );
        }
        Ok(arn)
    }

    /// As this vault's region knows it.
    pub(super) fn here(&self, arn: Arn) -> Arn {
        if arn.is_multi_region() { arn.in_region(&self.region) } else { arn }
    }

    /// As every region's vault spells it.
    pub(super) fn spelled(&self, arn: Arn) -> Arn {
        if arn.is_multi_region() { arn.in_region(&self.home) } else { arn }
    }
}

/// The partition that a region is in, by its name.
pub(super) fn partition_of(region: &str) -> &'static str {
    const BY_PREFIX: [(&str, &str); 8] = [
        ("cn-", "aws-cn"),
        ("us-gov-", "aws-us-gov"),
        ("us-isob-", "aws-iso-b"),
        ("us-isof-", "aws-iso-f"),
        ("us-iso-", "aws-iso"),
        ("eu-isoe-", "aws-iso-e"),
        ("eusc-", "aws-eusc"),
        ("", "aws"),
    ];
    BY_PREFIX.iter().find(|(prefix, _)| region.starts_with(prefix)).map_or("aws", |(_, partition)| partition)
}

pub(super) fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

pub(super) fn is_account(account: &str) -> bool {
    account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit())
}

fn is_key(id: &str) -> bool {
    let hex =
        |text: &str, len| text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match id.strip_prefix(MULTI_REGION) {
        Some(digits) => hex(digits, 32),
        None => {
            let groups: Vec<_> = id.split('-').collect();
            groups.len() == 5 && groups.iter().zip([8, 4, 4, 4, 12]).all(|(group, len)| hex(group, len))
        }
    }
}

fn is_alias(name: &str) -> bool {
    (1..=MAX_ALIAS).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    const SHARED: &str = "arn:aws:kms:us-east-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";
    const ALIAS: &str = "arn:aws:kms:eu-west-1:111122223333:alias/teams/payroll_2";

    fn id(uri: &str) -> KeyId {
        KeyId::new(uri).unwrap()
    }

    fn territory(region: &str) -> Territory {
        Territory {
            partition: "aws".into(),
            region: region.into(),
            accounts: vec!["111122223333".into(), "444455556666".into()],
            home: "us-east-1".into(),
            same: vec!["us-east-1".into(), "eu-west-1".into(), region.into()],
        }
    }

    #[test]
    fn arns_survive_the_way_to_text_and_back() {
        for text in [KEY, SHARED, ALIAS] {
            assert_eq!(Arn::parse(text).unwrap().to_string(), text);
        }
        assert!(Arn::parse(KEY).unwrap().is_key() && !Arn::parse(ALIAS).unwrap().is_key());
    }

    #[test]
    fn ids_of_other_shapes_are_refused() {
        for bad in [
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "alias/payroll",
            "local://acme/keys/k",
            "ARN:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:s3:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms::111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms:EU-WEST-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms:eu-west-1:11112222333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms:eu-west-1:111122223333:key/1234ABCD-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms:eu-west-1:111122223333:key/1234abcd12ab34cd56ef1234567890ab",
            "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab/",
            "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab:1",
            "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234",
            "arn:aws:kms:eu-west-1:111122223333:key/",
            "arn:aws:kms:eu-west-1:111122223333:key",
            "arn:aws:kms:eu-west-1:111122223333:alias/",
            "arn:aws:kms:eu-west-1:111122223333:alias/a.b",
            "arn:aws:kms:eu-west-1:111122223333:alias/aws/s3",
            "arn:aws:kms:eu-west-1:111122223333:grant/1",
            "arn:aws:kms:eu-west-1:111122223333",
        ] {
            assert!(Arn::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_of_another_partition_account_or_region_are_refused() {
        let here = territory("eu-west-1");
        for own in [KEY, SHARED, ALIAS, &KEY.replace("111122223333", "444455556666")] {
            assert!(here.parse(&id(own)).is_ok(), "{own}");
        }
        for foreign in [
            KEY.replace("arn:aws:", "arn:aws-cn:"),
            KEY.replace("eu-west-1", "us-east-1"),
            ALIAS.replace("eu-west-1", "us-east-1"),
            SHARED.replace("us-east-1", "ap-south-1"),
            KEY.replace("111122223333", "111122223334"),
        ] {
            assert!(here.parse(&id(&foreign)).is_err(), "{foreign}");
        }
    }

    #[test]
    fn a_multi_region_key_is_asked_for_here_and_spelled_as_at_home() {
        let here = territory("eu-west-1");
        let arn = here.parse(&id(SHARED)).unwrap();
        assert_eq!(here.here(arn.clone()).to_string(), SHARED.replace("us-east-1", "eu-west-1"));
        assert_eq!(here.spelled(here.here(arn)).to_string(), SHARED);
        let single = here.parse(&id(KEY)).unwrap();
        assert_eq!(here.here(single.clone()).to_string(), KEY);
        assert_eq!(here.spelled(single).to_string(), KEY);
    }

    #[test]
    fn a_regions_name_tells_its_partition() {
        for (region, partition) in [
            ("eu-west-1", "aws"),
            ("us-east-1", "aws"),
            ("cn-north-1", "aws-cn"),
            ("us-gov-west-1", "aws-us-gov"),
            ("us-iso-east-1", "aws-iso"),
            ("us-isob-east-1", "aws-iso-b"),
            ("eusc-de-east-1", "aws-eusc"),
        ] {
            assert_eq!(partition_of(region), partition, "{region}");
        }
    }
}
