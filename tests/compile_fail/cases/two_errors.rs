#[pollwatch::main(worker_threads = 0, threshold = "10")]
async fn main() {}
