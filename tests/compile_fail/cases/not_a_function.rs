#[pollwatch::main]
struct Main;

fn main() {}
