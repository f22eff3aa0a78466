#[pollwatch::main(threshold = "10")]
async fn main() {}
