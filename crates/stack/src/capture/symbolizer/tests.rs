use super::*;

/// A rare stall does not load the same tables again and again.
#[test]
fn tables_that_are_loaded_again_are_kept_for_longer() {
    let modules = Modules::current();
    let addresses = [KEEP_LONGEST, KEEP].map(|_| longer as *const () as u64);
    let mut symbolizer = Symbolizer::new();
    let mut expected = KEEP;
    for _ in 0..10 {
        symbolizer.known.clear();
        assert!(symbolizer.look_up(&modules, addresses[0])[0].line.is_some());
        let tables = symbolizer.modules.values_mut().next().unwrap();
        assert_eq!(tables.keep, expected);
        // A second look-up while they are held is no reason to keep them.
        symbolizer.known.clear();
        symbolizer.look_up(&modules, addresses[1]);
        symbolizer.release_unused();
        let tables = symbolizer.modules.values_mut().next().unwrap();
        assert!(tables.keep == expected && tables.bytes() > 0, "they were used just now");
        // As if nobody had used them for that long.
        tables.used = tables.used.and_then(|used| used.checked_sub(expected));
        symbolizer.release_unused();
        assert!(!symbolizer.holds_tables() && symbolizer.bytes_held() == 0);
        expected = longer(expected);
    }
    assert_eq!(expected, KEEP_LONGEST);
}

#[test]
fn tables_that_were_not_used_for_the_longest_time_make_room() {
    let modules = Modules::current();
    let mut symbolizer = Symbolizer::new();
    let libc = libc::getpid as *const () as u64;
    symbolizer.look_up(&modules, libc);
    symbolizer.look_up(&modules, longer as *const () as u64);
    let program = module_key(modules.find(longer as *const () as u64).unwrap());
    let both = symbolizer.bytes_held();
    symbolizer.make_room(&program, both - 1);
    assert!(symbolizer.modules[&program].bytes() > 0 && symbolizer.bytes_held() < both);
    symbolizer.make_room(&program, 0);
    assert!(symbolizer.modules[&program].bytes() > 0, "they are needed now");
}
