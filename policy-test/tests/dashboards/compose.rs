//! The Compose file.
