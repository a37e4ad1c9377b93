//! A host for tests: what `open` needs besides URL and options.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::{Error, ErrorKind, Host, Result, Secrets};

/// Hands out the given secrets and keeps state in memory.
#[derive(Default)]
pub struct TestHost {
    pub secrets: Secrets,
    state: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl TestHost {
    pub fn new(secrets: Secrets) -> Self {
        Self { secrets, state: Mutex::default() }
    }
}

impl Host for TestHost {
    fn secret(&self, name: &str) -> Result<Zeroizing<String>> {
        match self.secrets.get(name) {
            Some(value) => Ok(Zeroizing::new(value.to_owned())),
            None => Err(Error::new(ErrorKind::NotFound, format!("the test has no secret '{name}'"))),
        }
    }

    fn state_get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn state_put(&self, key: &str, value: &[u8]) -> Result<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), value.to_vec());
        Ok(())
    }

    fn invoke(&self, operation: &str, _: &str) -> Result<String> {
        Err(Error::unsupported(&format!("the operation '{operation}'")))
    }
}
