//! One error type for both sides of the boundary.
//!
//! Rules: a backend returns an error, it never logs it and never retries; the kind says what happened, the retry
//! class says whether trying again can help; context is added outermost last. No secret ever enters an error.

use std::fmt;
use std::time::Duration;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Crosses the boundary as a string, so a kind this side does not know arrives as
/// [`ErrorKind::Unknown`] and keeps its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    NotFound,
    Exists,
    Denied,
    Unauthenticated,
    UntrustedPeer,
    Unreachable,
    Offline,
    TimedOut,
    Interrupted,
    Busy,
    Locked,
    Throttled,
    NoSpace,
    Quota,
    ReadOnly,
    NameRefused,
    TooLarge,
    PreconditionFailed,
    StaleToken,
    Retained,
    SourceChanged,
    Corrupt,
    Unsupported,
    InvalidConfig,
    Cancelled,
    Panicked,
    Other,
    Unknown(String),
}

macro_rules! names {
    ($($kind:ident),* $(,)?) => {
        impl ErrorKind {
            /// Every kind with a name of its own, in the order of the documentation.
            pub const ALL: &'static [ErrorKind] = &[$(ErrorKind::$kind),*];

            /// The name that crosses the boundary and is shown to users.
            pub fn as_str(&self) -> &str {
                match self {
                    $(ErrorKind::$kind => stringify!($kind),)*
                    ErrorKind::Unknown(name) => name,
                }
            }

            /// The kind of that name; any other name is kept in [`ErrorKind::Unknown`].
            pub fn from_name(name: &str) -> Self {
                match name {
                    $(stringify!($kind) => ErrorKind::$kind,)*
                    other => ErrorKind::Unknown(other.to_owned()),
                }
            }
        }
    };
}

names!(
    NotFound,
    Exists,
    Denied,
    Unauthenticated,
    UntrustedPeer,
    Unreachable,
    Offline,
    TimedOut,
    Interrupted,
    Busy,
    Locked,
    Throttled,
    NoSpace,
    Quota,
    ReadOnly,
    NameRefused,
    TooLarge,
    PreconditionFailed,
    StaleToken,
    Retained,
    SourceChanged,
    Corrupt,
    Unsupported,
    InvalidConfig,
    Cancelled,
    Panicked,
    Other,
);

impl ErrorKind {
    /// The retry class an error of this kind has unless the backend knows better.
    pub fn default_retry(&self) -> Retry {
        match self {
            Self::Unreachable
            | Self::Offline
            | Self::TimedOut
            | Self::Interrupted
            | Self::Busy
            | Self::Locked
            | Self::Throttled
            | Self::StaleToken => Retry::Now,
            _ => Retry::Never,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether trying the same call again can help. The host decides whether and when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Never,
    /// After the host's own back-off.
    Now,
    /// Not before this long, as the server asked.
    After(Duration),
}

/// An error of a backend (or of the host's side of a call).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    retry: Retry,
    message: String,
    context: Vec<(String, String)>,
    source: Option<String>,
}

impl Error {
    /// `message`: what failed, in words a user understands, without secrets.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let retry = kind.default_retry();
        Self { kind, retry, message: message.into(), context: Vec::new(), source: None }
    }

    pub fn unsupported(operation: &str) -> Self {
        Self::new(ErrorKind::Unsupported, format!("this backend does not support {operation}"))
    }

    /// The error for an operating-system error, `what` being the failed act and its object.
    pub fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::AlreadyExists => ErrorKind::Exists,
            Io::PermissionDenied => ErrorKind::Denied,
            Io::StorageFull => ErrorKind::NoSpace,
            Io::QuotaExceeded => ErrorKind::Quota,
            Io::ReadOnlyFilesystem => ErrorKind::ReadOnly,
            Io::FileTooLarge => ErrorKind::TooLarge,
            Io::InvalidFilename => ErrorKind::NameRefused,
            Io::TimedOut => ErrorKind::TimedOut,
            Io::ConnectionRefused | Io::HostUnreachable | Io::NetworkUnreachable => ErrorKind::Unreachable,
            Io::ConnectionReset
            | Io::ConnectionAborted
            | Io::BrokenPipe
            | Io::UnexpectedEof
            | Io::Interrupted => ErrorKind::Interrupted,
            Io::StaleNetworkFileHandle | Io::NetworkDown => ErrorKind::Offline,
            Io::ResourceBusy | Io::ExecutableFileBusy => ErrorKind::Busy,
            _ => ErrorKind::Other,
        };
        Self::new(kind, what).with_source(error.to_string())
    }

    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Adds one fact (`path`, `host`, …), shown after the message in the order added.
    pub fn with_context(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.context.push((key.into(), value.into()));
        self
    }

    /// The text of the underlying error (a library's, a server's).
    pub fn with_source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    pub fn retry(&self) -> Retry {
        self.retry
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn context(&self) -> &[(String, String)] {
        &self.context
    }

    pub fn source_text(&self) -> Option<&str> {
        self.source.as_deref()
    }
}

impl fmt::Display for Error {
    /// One line: `message, key: value: source (hint)`. What to do comes last, where a reader looks for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let (hints, facts): (Vec<_>, Vec<_>) = self.context.iter().partition(|(key, _)| key == "hint");
        for (key, value) in facts {
            write!(f, ", {key}: {value}")?;
        }
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        for (_, hint) in hints {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
