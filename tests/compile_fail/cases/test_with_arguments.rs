#[pollwatch::test]
async fn works(port: u16) {}

#[pollwatch::test]
async fn generic<T>() {}

fn main() {}
