//! The built binary against a fake agent on a Unix socket of its own: what is sent, what is
//! printed, and how it ends.

#![expect(clippy::expect_used, reason = "helpers of tests: a panic there is the report")]

mod agent;
mod bad_input;
mod capture;
mod change;
mod ctl;
mod describe;
mod diff;
mod generate;
mod no_agent;
mod observe;
mod offline;
mod show;
