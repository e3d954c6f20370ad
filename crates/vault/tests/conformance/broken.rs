//! The kit finds what is broken: each defect, planted in a vault that keeps its promises otherwise, fails the check that is
//! named for it.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{
    Aek, EntropyError, KeyId, WrapAlgorithm, WrappedKey,
    rsa::{RsaPublicKey, RsaSize},
};
use cofferdam_vault::{
    Entropy, KeyKind, KeyProperties, KeyVault, PublicKeyAnswer, RsaKeySource, VaultError,
    VaultErrorKind as Kind, WrapContext,
    conformance::{Factory, Hook, NotDone, Outcome, Report, Subject, checks, run, run_some},
    testing::{PublishedRsaKeys, SeededEntropy},
};

use crate::factories::{Around, LocalFactory, ScriptedFactory};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    AnotherKey,
    WrapsInTheClear,
    WrongAlgorithm,
    DropsTheVersion,
    TriesLatestOnly,
    DeniesOnTamper,
    NotFoundOnTamper,
    IgnoresTheTail,
    TakesAnyAlgorithm,
    SendsAnyLength,
    CachesUnwraps,
    CachesProperties,
    DisabledIsDenied,
    DisabledIsAnOutage,
    DeletedIsDisabled,
    UnknownIsOther,
    ForeignIsNotFound,
    SendsForeignIds,
    DenialIsAnOutage,
    OutageIsADenial,
    OutageSticks,
    ForgetsHowLong,
    Retries,
    ExpiredIsDenied,
    UntrustedIsUnavailable,
    ClaimsToBind,
    DeniesRecoverability,
    TellsAnotherKind,
    TellsOlderAsLatest,
    AnothersPublicHalf,
    PublicHalfOfAny,
    MixesCallsUp,
    StuckAfterADrop,
    PrintsTheKey,
    ErrorsPrintTheKey,
    Panics,
    PanicsOnTamper,
    PanicsInDebug,
    NeverAnswers,
}

use Defect::*;

/// Under the vault that is broken: which factory, and which check finds it.
const DEFECTS: &[(Defect, Base, &str)] = &[
    (AnotherKey, Base::Local, "round-trip"),
    (WrapsInTheClear, Base::Local, "wrap-hides-key"),
    (WrongAlgorithm, Base::Local, "wrap-form"),
    (DropsTheVersion, Base::Local, "wrap-names-version"),
    (TriesLatestOnly, Base::Local, "old-version-unwraps"),
    (DeniesOnTamper, Base::Local, "tampered-bits"),
    (DeniesOnTamper, Base::Local, "other-keys-wrap"),
    (NotFoundOnTamper, Base::Local, "tampered-bits"),
    (IgnoresTheTail, Base::Local, "extended"),
    (TakesAnyAlgorithm, Base::Local, "wrong-algorithm"),
    (SendsAnyLength, Base::Scripted, "wrong-length-not-sent"),
    (SendsAnyLength, Base::Local, "wrong-length-not-sent"),
    (CachesUnwraps, Base::Local, "disabled"),
    (CachesUnwraps, Base::Local, "deleted"),
    (CachesUnwraps, Base::Scripted, "denied"),
    (CachesUnwraps, Base::Local, "outage"),
    (CachesProperties, Base::Local, "disabled-properties"),
    (CachesProperties, Base::Local, "properties-latest"),
    (DisabledIsDenied, Base::Local, "disabled"),
    (DisabledIsAnOutage, Base::Local, "disabled"),
    (DeletedIsDisabled, Base::Local, "deleted"),
    (UnknownIsOther, Base::Local, "unknown-key"),
    (UnknownIsOther, Base::Local, "unknown-version"),
    (ForeignIsNotFound, Base::Local, "foreign-key"),
    (SendsForeignIds, Base::Local, "foreign-key-not-sent"),
    (DenialIsAnOutage, Base::Scripted, "denied"),
    (OutageIsADenial, Base::Local, "outage"),
    (OutageSticks, Base::Local, "outage-ends"),
    (ForgetsHowLong, Base::Scripted, "throttled"),
    (Retries, Base::Scripted, "asks-once"),
    (ExpiredIsDenied, Base::Scripted, "credential-expired"),
    (ExpiredIsDenied, Base::Scripted, "credential-lost"),
    (UntrustedIsUnavailable, Base::Scripted, "untrusted"),
    (ClaimsToBind, Base::Local, "context-account"),
    (ClaimsToBind, Base::Local, "context-epoch"),
    (ClaimsToBind, Base::Local, "context-provider"),
    (DeniesRecoverability, Base::Local, "properties-recoverable"),
    (TellsAnotherKind, Base::Local, "properties-kind"),
    (TellsOlderAsLatest, Base::Local, "properties-latest"),
    (AnothersPublicHalf, Base::Rsa, "public-key"),
    (PublicHalfOfAny, Base::Local, "not-rsa"),
    (MixesCallsUp, Base::Local, "concurrent-calls"),
    (StuckAfterADrop, Base::Local, "dropped-calls"),
    (PrintsTheKey, Base::Local, "no-secret-in-debug"),
    (ErrorsPrintTheKey, Base::Local, "no-secret-in-errors"),
    (Panics, Base::Local, "round-trip"),
    (PanicsOnTamper, Base::Local, "tampered-bits"),
    (PanicsInDebug, Base::Local, "no-secret-in-debug"),
    (NeverAnswers, Base::Local, "round-trip"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Local,
    Rsa,
    Scripted,
}

/// A vault with a defect, or none.
struct Broken {
    inner: Arc<dyn KeyVault>,
    defect: Option<Defect>,
    kept: Arc<Kept>,
}

/// What it wrongly keeps.
#[derive(Default)]
struct Kept {
    unwraps: Mutex<Vec<(WrappedKey, [u8; 32])>>,
    properties: Mutex<BTreeMap<KeyId, KeyProperties>>,
    last: Mutex<([u8; 32], Option<KeyId>)>,
    out: AtomicBool,
    busy: AtomicBool,
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.defect {
            Some(PrintsTheKey) => write!(f, "Broken({:?})", self.kept.last.lock().unwrap().0),
            Some(PanicsInDebug) => panic!("on purpose"),
            _ => f.write_str("Broken"),
        }
    }
}

fn aek_of(bytes: &[u8]) -> Aek {
    Aek::try_from_fn(|aek| {
        aek.copy_from_slice(bytes);
        Ok::<_, VaultError>(())
    })
    .unwrap()
}

fn parent(key: &KeyId) -> KeyId {
    KeyId::new(key.as_str().rsplit_once('/').unwrap().0).unwrap()
}

/// A key that none of the factory's is.
fn foreign_half() -> RsaPublicKey {
    let keys = PublishedRsaKeys::default();
    (0..3).map(|_| keys.draw(RsaSize::Rsa2048).unwrap()).last().unwrap().public_key().clone()
}

impl Broken {
    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    /// Before any call.
    async fn enter(&self) -> Result<(), VaultError> {
        match self.defect {
            Some(Panics) => panic!("on purpose"),
            Some(NeverAnswers) => pending().await,
            Some(OutageSticks) if self.kept.out.load(Ordering::SeqCst) => {
                return Err(VaultError::new(Kind::Unavailable, "it was away once"));
            }
            Some(SendsForeignIds) => {
                let own = self.kept.last.lock().unwrap().1.clone();
                if let Some(own) = own {
                    self.inner.key_properties(&own).await?;
                }
            }
            Some(StuckAfterADrop) => {
                if self.kept.busy.swap(true, Ordering::SeqCst) {
                    return Err(VaultError::new(Kind::Unavailable, "a call is under way"));
                }
                tokio::task::yield_now().await;
            }
            _ => {}
        }
        Ok(())
    }

    /// After any call.
    fn leave<T>(&self, answer: Result<T, VaultError>) -> Result<T, VaultError> {
        self.kept.busy.store(false, Ordering::SeqCst);
        let failed = match answer {
            Err(failed) => failed,
            answer => return answer,
        };
        if failed.kind() == Kind::Unavailable {
            self.kept.out.store(true, Ordering::SeqCst);
        }
        let kind = match (self.defect, failed.kind()) {
            (Some(DeniesOnTamper), Kind::Corrupt) => Kind::AccessDenied,
            (Some(NotFoundOnTamper), Kind::Corrupt) => Kind::KeyNotFound,
            (Some(PanicsOnTamper), Kind::Corrupt) => panic!("on purpose"),
            (Some(DisabledIsDenied), Kind::KeyDisabled) => Kind::AccessDenied,
            (Some(DisabledIsAnOutage), Kind::KeyDisabled) => Kind::Other,
            (Some(DeletedIsDisabled), Kind::KeyNotFound) => Kind::KeyDisabled,
            (Some(UnknownIsOther), Kind::KeyNotFound) => Kind::Other,
            (Some(ForeignIsNotFound), Kind::Other) => Kind::KeyNotFound,
            (Some(DenialIsAnOutage), Kind::AccessDenied) => Kind::Unavailable,
            (Some(OutageIsADenial), Kind::Unavailable) => Kind::AccessDenied,
            (Some(ForgetsHowLong), Kind::Throttled { .. }) => Kind::Throttled { retry_after: None },
            (Some(ExpiredIsDenied), Kind::Unauthenticated) => Kind::AccessDenied,
            (Some(UntrustedIsUnavailable), Kind::Untrusted) => Kind::Unavailable,
            _ => return Err(failed),
        };
        Err(VaultError::new(kind, failed.to_string()))
    }
}

#[async_trait]
impl KeyVault for Broken {
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        self.enter().await?;
        *self.kept.last.lock().unwrap() = (*aek.expose(), Some(key_id.clone()));
        let mixed = match self.defect {
            Some(MixesCallsUp) => {
                tokio::task::yield_now().await;
                Some(aek_of(&self.kept.last.lock().unwrap().0))
            }
            _ => None,
        };
        let aek = mixed.as_ref().unwrap_or(aek);
        let answer = self.leave(self.inner.wrap_key(key_id, aek, context).await);
        let mut wrapped = match answer {
            Ok(wrapped) => wrapped,
            Err(failed) if self.has(ErrorsPrintTheKey) => {
                let message = format!("can't wrap {}", String::from_utf8_lossy(aek.expose()));
                return Err(VaultError::new(failed.kind(), message));
            }
            Err(failed) => return Err(failed),
        };
        match self.defect {
            Some(WrapsInTheClear) => wrapped.bytes = [&aek.expose()[..], &[0; 8]].concat(),
            Some(WrongAlgorithm) => wrapped.algorithm = WrapAlgorithm::RsaOaep256,
            Some(DropsTheVersion) => wrapped.key_id = parent(key_id),
            _ => {}
        }
        Ok(wrapped)
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError> {
        self.enter().await?;
        let mut asked = wrapped.clone();
        match self.defect {
            Some(WrapsInTheClear) => return Ok(aek_of(&wrapped.bytes[..32])),
            Some(IgnoresTheTail) => asked.bytes.truncate(40),
            Some(TakesAnyAlgorithm) => asked.algorithm = WrapAlgorithm::Aes256Kw,
            Some(TriesLatestOnly) => {
                asked.key_id = self.inner.key_properties(&parent(&wrapped.key_id)).await?.latest;
            }
            Some(SendsAnyLength) if !wrapped.algorithm.accepts_len(wrapped.bytes.len()) => {
                self.inner.key_properties(&wrapped.key_id).await?;
            }
            Some(CachesUnwraps) => {
                let kept = self.kept.unwraps.lock().unwrap();
                if let Some((_, aek)) = kept.iter().find(|(of, _)| of == wrapped) {
                    return Ok(aek_of(aek));
                }
            }
            _ => {}
        }
        let mut answer = self.inner.unwrap_key(&asked, context).await;
        if answer.is_err() && self.has(Retries) {
            answer = self.inner.unwrap_key(&asked, context).await;
        }
        let aek = self.leave(answer)?;
        if self.has(AnotherKey) {
            return Ok(aek_of(&[7; 32]));
        }
        self.kept.unwraps.lock().unwrap().push((wrapped.clone(), *aek.expose()));
        Ok(aek)
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        self.enter().await?;
        if let (true, Some(kept)) =
            (self.has(CachesProperties), self.kept.properties.lock().unwrap().get(key_id))
        {
            return Ok(kept.clone());
        }
        let mut told = self.leave(self.inner.key_properties(key_id).await)?;
        match self.defect {
            Some(DeniesRecoverability) => told.soft_delete = false,
            Some(TellsAnotherKind) => told.kind = KeyKind::Transit,
            Some(TellsOlderAsLatest) => told.latest = told.key_id.clone(),
            _ => {}
        }
        self.kept.properties.lock().unwrap().insert(key_id.clone(), told.clone());
        Ok(told)
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        self.enter().await?;
        let answer = self.leave(self.inner.public_key(key_id).await);
        match self.defect {
            Some(AnothersPublicHalf | PublicHalfOfAny) => {
                Ok(PublicKeyAnswer { key_id: key_id.clone(), key: foreign_half() })
            }
            _ => answer,
        }
    }
}

/// Another factory's world, whose vault has a defect.
async fn broken(base: Base, defect: Option<Defect>) -> Around {
    let around = match base {
        Base::Local => Around::new(LocalFactory::new(KeyKind::Aes256, None).await),
        Base::Rsa => Around::new(LocalFactory::new(KeyKind::Rsa(RsaSize::Rsa2048), None).await),
        Base::Scripted => {
            Around::new(ScriptedFactory::new(KeyKind::Aes256).renewing(defect != Some(ExpiredIsDenied)))
        }
    };
    let kept = Arc::<Kept>::default();
    let around = around
        .patience(Duration::from_secs(5))
        .vault(move |inner| Arc::new(Broken { inner, defect, kept: kept.clone() }));
    if defect == Some(ClaimsToBind) { around.subject(Subject::binds_context) } else { around }
}

async fn found(base: Base, defect: Option<Defect>, check: &str) -> (Outcome, Report) {
    let factory = broken(base, defect).await;
    // Errors are looked through at the end: something has to fail before.
    let is_wanted = |name: &str| name == check || check == "no-secret-in-errors" && name == "disabled";
    let report = run_some(&factory, &SeededEntropy::new(3), is_wanted).await;
    (report.outcome(check).unwrap().clone(), report)
}

#[tokio::test(start_paused = true)]
async fn every_defect_is_found_by_the_check_that_is_named_for_it() {
    for &(defect, base, check) in DEFECTS {
        let (outcome, report) = found(base, Some(defect), check).await;
        assert!(matches!(outcome, Outcome::Failed { .. }), "{defect:?} is not found:\n{report}");
        assert!(!report.is_ok());
        let (outcome, report) = found(base, None, check).await;
        assert!(matches!(outcome, Outcome::Passed { .. }), "{check} finds what is not there:\n{report}");
        println!("{defect:?} on {base:?}: found by {check}");
    }
    let mut defects: Vec<_> = DEFECTS.iter().map(|(defect, ..)| format!("{defect:?}")).collect();
    defects.dedup();
    println!("{} defects, {} checks that find them", defects.len(), DEFECTS.len());
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_breaks_everything_gets_its_report_all_the_same() {
    for defect in [Panics, PanicsOnTamper, PanicsInDebug, NeverAnswers, StuckAfterADrop] {
        let factory = broken(Base::Local, Some(defect)).await;
        let report = run(&factory, &SeededEntropy::new(3)).await;
        assert_eq!(report.checks().len(), checks().count());
        assert!(!report.is_ok() && report.failed().count() > 0, "{defect:?}");
        let text = report.to_string();
        assert!(text.contains("FAILED") && text.ends_with(&report.counts().to_string()), "{text}");
    }
}

/// Fails in every way that a factory can.
#[derive(Clone, Copy, Debug, PartialEq)]
enum BadFactory {
    SubjectPanics,
    VaultFails,
    KeysFail,
    KeysPanic,
    Nothing,
    SettlePanics,
    ExcusePanics,
}

#[async_trait]
impl Factory for BadFactory {
    fn subject(&self) -> Subject {
        assert_ne!(*self, Self::SubjectPanics, "on purpose");
        Subject::new("bad", KeyKind::Aes256)
    }

    async fn vault(&self) -> Hook<Arc<dyn KeyVault>> {
        match self {
            Self::VaultFails => Err(std::io::Error::other("no room"))?,
            _ => LocalFactory::new(KeyKind::Aes256, None).await.vault().await,
        }
    }

    async fn new_key(&self) -> Hook<KeyId> {
        match self {
            Self::KeysFail => Err(std::io::Error::other("no room"))?,
            Self::KeysPanic => panic!("on purpose"),
            _ => Err(NotDone::unsupported("it makes no keys")),
        }
    }

    fn excuse(&self, check: &str) -> Option<Cow<'static, str>> {
        assert_ne!(*self, Self::ExcusePanics, "on purpose");
        (check == "disabled").then(|| "a stand-in".into())
    }

    async fn settle(&self) {
        assert_ne!(*self, Self::SettlePanics, "on purpose");
    }
}

#[tokio::test]
async fn a_factory_that_fails_fails_the_checks_and_one_that_can_nothing_passes_none() {
    use BadFactory::*;
    for factory in [SubjectPanics, VaultFails, KeysFail, KeysPanic, SettlePanics, ExcusePanics] {
        let report = run(&factory, &SeededEntropy::new(3)).await;
        assert_eq!(report.checks().len(), checks().count());
        assert!(!report.is_ok(), "{factory:?}: {report}");
        let outcome = report.outcome("round-trip").unwrap();
        if factory == SettlePanics {
            assert!(matches!(outcome, Outcome::NotApplicable { .. }), "{factory:?}: {outcome:?}");
        } else {
            assert!(matches!(outcome, Outcome::Failed { .. }), "{factory:?}: {outcome:?}");
        }
    }
    let report = run(&Nothing, &SeededEntropy::new(3)).await;
    assert!(!report.is_ok(), "a report without a check that passed is not good: {report}");
    let excused = Outcome::NotApplicable { reason: "a stand-in".into() };
    assert_eq!(report.outcome("disabled"), Some(&excused));
}

#[derive(Debug)]
struct Dry;

impl Entropy for Dry {
    fn fill(&self, _: &mut [u8]) -> Result<(), EntropyError> {
        Err(EntropyError("dry".into()))
    }
}

#[tokio::test]
async fn without_random_bytes_every_check_fails_and_says_so() {
    let report = run(&LocalFactory::new(KeyKind::Aes256, None).await, &Dry).await;
    assert_eq!(report.failed().count(), checks().count());
    assert!(report.to_string().contains("expected random bytes"), "{report}");
}

#[tokio::test]
async fn what_was_done_to_the_vault_as_a_whole_is_undone_where_the_check_fails() {
    let factory = broken(Base::Local, Some(OutageIsADenial)).await;
    let report =
        run_some(&factory, &SeededEntropy::new(3), |name| ["outage", "round-trip"].contains(&name)).await;
    assert!(matches!(report.outcome("outage"), Some(Outcome::Failed { .. })), "{report}");
    let report = run_some(&factory, &SeededEntropy::new(3), |name| name == "round-trip").await;
    assert!(report.is_ok(), "it is still away: {report}");
}

#[tokio::test]
async fn a_run_repeats_from_its_seed() {
    let run = async || run(&LocalFactory::new(KeyKind::Aes256, None).await, &SeededEntropy::new(9)).await;
    assert_eq!(run().await, run().await);
}

#[test]
fn checks_have_names_of_their_own_in_kebab_case_and_are_documented() {
    let mut names: Vec<_> = checks().map(|(name, _)| name).collect();
    let documented = include_str!("../../../../docs/conformance.md");
    for (name, promise) in checks() {
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
        assert!(
            documented.contains(&format!("| `{name}` | {promise} |")),
            "{name} is not in docs/conformance.md"
        );
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), checks().count());
    let (_, table) = documented.split_once("## The checks").unwrap();
    assert_eq!(table.lines().filter(|line| line.starts_with("| `")).count(), names.len());
}
