#[pollwatch::main(flavor = "current_thread", worker_threads = 4)]
async fn workers() {}

#[pollwatch::main(start_paused = true)]
async fn paused() {}

#[pollwatch::test(worker_threads = 2)]
async fn test() {}

fn main() {}
