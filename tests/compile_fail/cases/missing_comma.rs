#[pollwatch::main(threshold = "10ms" worker_threads = 2)]
async fn main() {}
