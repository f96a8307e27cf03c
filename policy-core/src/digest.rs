//! Names of things by their content, the same from one run of the agent to the next.
//!
//! In: any value that can be hashed. Out: a [`Digest`]. SHA-256 (FIPS 180-4) and not a faster
//! hash, because labels are chosen by whoever starts a container: two identities that an attacker
//! made collide would be one peer.

use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// The first half of a SHA-256 sum; written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(u128);

impl Digest {
    /// The digest of `value`; `domain` keeps values of different kinds apart.
    pub fn of<T: Hash + ?Sized>(domain: &str, value: &T) -> Digest {
        let mut sum = Sum(sha2::Sha256::new());
        domain.hash(&mut sum);
        value.hash(&mut sum);
        let sum: [u8; 32] = sum.0.finalize().into();
        Digest(sum.iter().take(16).fold(0, |all, &byte| all << 8 | u128::from(byte)))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// A text that is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest of 32 hexadecimal digits")]
pub struct DigestError(String);

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match u128::from_str_radix(text, 16) {
            Ok(value) if text.len() == 32 => Ok(Digest(value)),
            _ => Err(DigestError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Feeds what `derive(Hash)` writes into SHA-256. Its encoding tells strings and lists of
/// different lengths apart.
struct Sum(sha2::Sha256);

impl Hasher for Sum {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of no use here: [`Digest::of`] takes the whole sum.
    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_and_domain_decide() {
        let one = Digest::of("peer", &("a", "bc"));
        assert_eq!(one, Digest::of("peer", &("a", "bc")));
        assert_ne!(one, Digest::of("peer", &("ab", "c")));
        assert_ne!(one, Digest::of("table", &("a", "bc")));
    }

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        let digest = Digest::of("peer", "x");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("12".parse::<Digest>().is_err());
        assert!("zz".repeat(16).parse::<Digest>().is_err());
    }
}
