//! world2act
fn main() {}
