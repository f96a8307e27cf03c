//! policy-agent

fn main() {}
