#[pollwatch::main(worker_threads = "4")]
async fn four() {}

#[pollwatch::main(worker_threads = 0)]
async fn none() {}

#[pollwatch::main(flavor = "current_thread", start_paused = 1)]
async fn paused() {}

#[pollwatch::main(flavor = "threaded")]
async fn flavored() {}

#[pollwatch::main(flavor = "local", unhandled_panic = "abort")]
async fn aborts() {}

#[pollwatch::main(name = " ")]
async fn nameless() {}

#[pollwatch::main(listen = "9464")]
async fn listens() {}

#[pollwatch::main(crate = "a crate")]
async fn crated() {}

fn main() {}
