#[pollwatch::main(treshold = "10ms")]
async fn main() {}
