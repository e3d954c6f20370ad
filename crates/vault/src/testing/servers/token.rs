//! Tokens of PKCS #11 modules that are software.
//!
//! A module lives in the process that uses it. It reads its settings once, when the process first initialises it, from the file
//! that an environment variable names, and sees the tokens that were there then. So a process has one token of each
//! module, which its tests share: keys of different labels keep them apart. The token is new: whatever an earlier process
//! left is removed. A lock keeps other processes that name the same file waiting until this one has ended; those that this one
//! starts see its token.

use std::{
    env, fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::installed;

const PIN: &str = "7391";
const SO_PIN: &str = "73917391";

/// A token of SoftHSM 2. Its objects are files.
#[derive(Clone, Copy)]
pub struct SoftHsm(&'static Token);

impl SoftHsm {
    /// The token of this process; none where SoftHSM is not installed.
    ///
    /// # Panics
    /// When it can't be made, or `SOFTHSM2_CONF` names no file to put its settings in.
    #[track_caller]
    pub fn start() -> Option<Self> {
        static TOKEN: OnceLock<Option<Token>> = OnceLock::new();
        let token = TOKEN.get_or_init(|| {
            let module = installed("COFFERDAM_SOFTHSM")?;
            let settings = |folder: &Path| {
                let tokens = folder.join("tokens");
                fs::create_dir(&tokens).expect("a folder for the tokens");
                format!(
                    "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n\
                     slots.removable = false\n",
                    tokens.display()
                )
            };
            Some(Token::make("SOFTHSM2_CONF", module, "cofferdam-softhsm", &["--free"], settings))
        });
        token.as_ref().map(Self)
    }

    /// Takes the token out: what it held is gone until it is put back.
    ///
    /// # Panics
    /// When it is out already.
    pub fn remove(&self) {
        let Token { folder, .. } = self.0;
        fs::rename(folder.join("tokens"), folder.join("removed")).expect("the token is there");
    }

    /// Puts the token back that was taken out.
    ///
    /// # Panics
    /// When it is not out.
    pub fn put_back(&self) {
        let Token { folder, .. } = self.0;
        fs::rename(folder.join("removed"), folder.join("tokens")).expect("the token is out");
    }
}

/// A token of Kryoptic. Its objects are in one database.
#[derive(Clone, Copy)]
pub struct Kryoptic(&'static Token);

impl Kryoptic {
    /// The token of this process; none where Kryoptic is not installed.
    ///
    /// # Panics
    /// When it can't be made, or `KRYOPTIC_CONF` names no file to put its settings in.
    #[track_caller]
    pub fn start() -> Option<Self> {
        static TOKEN: OnceLock<Option<Token>> = OnceLock::new();
        let token = TOKEN.get_or_init(|| {
            let module = installed("COFFERDAM_KRYOPTIC")?;
            let settings = |folder: &Path| {
                let database = folder.join("token.sql");
                format!("[[slots]]\nslot = 0\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n", database.display())
            };
            Some(Token::make("KRYOPTIC_CONF", module, "cofferdam-kryoptic", &["--slot", "0"], settings))
        });
        token.as_ref().map(Self)
    }
}

struct Token {
    module: PathBuf,
    label: &'static str,
    /// What names the settings, and the settings.
    variable: (&'static str, PathBuf),
    /// All that it is made of.
    folder: PathBuf,
    /// What `softhsm2-util` takes for SoftHSM's settings when it drives this module.
    util: PathBuf,
    /// Held until the process ends.
    _lock: File,
}

impl Token {
    #[track_caller]
    fn make(
        variable: &'static str,
        module: PathBuf,
        label: &'static str,
        slot: &[&str],
        settings: impl FnOnce(&Path) -> String,
    ) -> Self {
        let named = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let file = named.unwrap_or_else(|| {
            panic!("{variable} must name a file, to be written, in a folder for tokens: see `cargo xtask services`")
        });
        let folder = file.parent().expect("an absolute path of a file has a folder").join(label);
        fs::create_dir_all(folder.parent().expect("it was just added")).expect("a folder for tokens");
        let lock = File::create(folder.with_extension("lock")).expect("a lock for the token");
        lock.lock().expect("a file that can be locked");
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => panic!("can't remove {}: {e}", folder.display()),
            _ => fs::create_dir(&folder).expect("a folder for the token"),
        }
        fs::write(&file, settings(&folder)).expect("settings for the module");
        let util = if variable == "SOFTHSM2_CONF" { file.clone() } else { no_token(&folder) };
        let token = Self { module, label, variable: (variable, file), folder, util, _lock: lock };
        let mut command = token.util();
        command.arg("--init-token").args(slot).args(["--label", label, "--so-pin", SO_PIN, "--pin", PIN]);
        let made = command.output().unwrap_or_else(|e| panic!("can't start softhsm2-util: {e}"));
        assert!(
            made.status.success(),
            "no token {label}: {}{}",
            String::from_utf8_lossy(&made.stdout),
            String::from_utf8_lossy(&made.stderr)
        );
        token
    }

    /// A tool that drives any module, for this one. It starts SoftHSM first, whichever it drives, and ends where that one's
    /// settings can't be used: they may be another token's, which is being made or is out.
    fn util(&self) -> Command {
        let mut command = Command::new("softhsm2-util");
        command.arg("--module").arg(&self.module).env("SOFTHSM2_CONF", &self.util);
        command
    }
}

/// Settings of SoftHSM with no token in them.
fn no_token(folder: &Path) -> PathBuf {
    let (tokens, file) = (folder.join("no-token"), folder.join("no-token.conf"));
    fs::create_dir(&tokens).expect("a folder for no token");
    fs::write(&file, format!("directories.tokendir = {}\n", tokens.display())).expect("settings of no token");
    file
}

macro_rules! token {
    ($name:ident) => {
        impl $name {
            /// The module: a shared object.
            pub fn module(&self) -> &'static Path {
                &self.0.module
            }

            /// The token's label.
            pub fn token(&self) -> &'static str {
                self.0.label
            }

            /// The user's PIN.
            pub fn pin(&self) -> &'static str {
                PIN
            }

            /// The security officer's PIN.
            pub fn so_pin(&self) -> &'static str {
                SO_PIN
            }

            /// `softhsm2-util` for this token's module.
            pub fn util(&self) -> Command {
                self.0.util()
            }

            /// What names the module's settings, for a process that does not inherit this one's environment.
            pub fn environment(&self) -> (&'static str, &'static Path) {
                (self.0.variable.0, &self.0.variable.1)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({}, in {})", stringify!($name), self.0.label, self.0.folder.display())
            }
        }
    };
}

token!(SoftHsm);
token!(Kryoptic);
