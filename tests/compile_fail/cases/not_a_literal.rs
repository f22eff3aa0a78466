const THRESHOLD: &str = "10ms";

#[pollwatch::main(threshold = THRESHOLD)]
async fn main() {}
