#[pollwatch::test]
fn works() {}

fn main() {}
