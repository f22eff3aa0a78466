#[pollwatch::main]
fn main() {}
