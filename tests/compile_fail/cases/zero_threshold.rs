#[pollwatch::main(threshold = "0ms")]
async fn main() {}
