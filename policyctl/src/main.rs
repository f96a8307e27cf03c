//! policyctl

fn main() {}
