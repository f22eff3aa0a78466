#[pollwatch::test(threshold = "2.5h")]
async fn long() {}

#[pollwatch::test(threshold = "3601s")]
async fn too_long() {}

fn main() {}
