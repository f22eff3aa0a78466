use super::*;

const START: u64 = 0x1000;

/// Returns the calls in code that is loaded at [`START`].
fn calls_in(code: &[&[u8]]) -> Calls {
    const RETURN: &[u8] = &[0xc3];
    let code = [code.concat(), RETURN.to_vec(), vec![0xcc; MAX_LEN]].concat();
    let function = START..START + code.len() as u64;
    let read = |at: u64, to: &mut [u8]| {
        let from = (at - START) as usize;
        code.get(from..from + to.len()).map(|bytes| to.copy_from_slice(bytes)).is_some()
    };
    calls(&read, &function, START, &|_| false)
}

/// Returns the first argument of each call in code that is loaded at [`START`].
fn first_arguments(code: &[&[u8]]) -> Vec<Value> {
    let found = calls_in(code);
    assert!(found.is_complete);
    found.list.iter().map(|call| call.first).collect()
}

const CALL: &[u8] = &[0xe8, 0, 0x10, 0, 0];
const MOV_RDI_RBX: &[u8] = &[0x48, 0x89, 0xdf];
const LOAD_RDI: &[u8] = &[0x48, 0x8b, 0x7c, 0x24, 0x10]; // mov rdi, [rsp + 0x10]
const STORE_RBX: &[u8] = &[0x48, 0x89, 0x5c, 0x24, 0x10]; // mov [rsp + 0x10], rbx

#[test]
fn an_overwritten_register_is_not_known() {
    let rbx = Value::Near(Register::RBX, 0);
    assert_eq!(first_arguments(&[MOV_RDI_RBX, CALL]), [rbx]);
    for overwrites in [&[0x31, 0xff][..], &[0x48, 0x03, 0x3b], &[0x48, 0x0f, 0x44, 0xfa], &[0xbf, 1, 0, 0, 0]] {
        assert_eq!(first_arguments(&[MOV_RDI_RBX, overwrites, CALL]), [Value::Unknown], "{overwrites:02x?}");
    }
    let other: &[u8] = &[0x31, 0xc0]; // xor eax, eax
    assert_eq!(first_arguments(&[MOV_RDI_RBX, other, CALL]), [rbx]);
}

#[test]
fn a_function_whose_address_was_loaded_is_called() {
    let load_rax: &[u8] = &[0x48, 0x8b, 0x05, 2, 0, 0, 0]; // mov rax, [rip + 2]
    let (call_rax, call_rbx): (&[u8], &[u8]) = (&[0xff, 0xd0], &[0xff, 0xd3]);
    // The word follows the call. It is the return and what fills the rest.
    let found = calls_in(&[load_rax, call_rax]);
    let targets: Vec<u64> = found.list.iter().map(|call| call.target).collect();
    assert_eq!((targets, found.is_complete), (vec![0xcccc_cccc_cccc_ccc3], true));
    let load_again: &[u8] = &[0x48, 0x8b, 0x00]; // mov rax, [rax]
    assert!(calls_in(&[load_rax, load_again, call_rax]).list.is_empty());
    let found = calls_in(&[call_rbx]);
    assert!(found.list.is_empty() && !found.is_complete, "it was loaded before");
}

#[test]
fn overwritten_memory_is_not_known() {
    let (rbx, loaded) = (Value::Near(Register::RBX, 0), Value::Loaded(Register::RSP, 0x10));
    assert_eq!(first_arguments(&[LOAD_RDI, CALL]), [loaded]);
    assert_eq!(first_arguments(&[STORE_RBX, LOAD_RDI, CALL]), [rbx]);
    let half: &[u8] = &[0x89, 0x44, 0x24, 0x14]; // mov [rsp + 0x14], eax
    let vector: &[u8] = &[0x0f, 0x11, 0x44, 0x24, 0x08]; // movups [rsp + 8], xmm0
    for overwrites in [half, vector] {
        assert_eq!(first_arguments(&[overwrites, LOAD_RDI, CALL]), [Value::Unknown]);
        assert_eq!(first_arguments(&[STORE_RBX, overwrites, LOAD_RDI, CALL]), [Value::Unknown]);
        assert_eq!(first_arguments(&[overwrites, STORE_RBX, LOAD_RDI, CALL]), [rbx]);
    }
    let next: &[u8] = &[0xc6, 0x44, 0x24, 0x18, 0]; // mov byte ptr [rsp + 0x18], 0
    assert_eq!(first_arguments(&[STORE_RBX, next, LOAD_RDI, CALL]), [rbx]);
}

#[test]
fn memory_that_is_overwritten_while_no_more_is_remembered_is_not_known() {
    let half: &[u8] = &[0x89, 0x44, 0x24, 0x14]; // mov [rsp + 0x14], eax
    let elsewhere: Vec<u8> = (1..MAX_STORED as u32)
        .flat_map(|number| [&[0x89, 0x84, 0x24][..], &(0x100 * number).to_le_bytes()].concat()) // mov [rsp + x], eax
        .collect();
    let rbx = Value::Near(Register::RBX, 0);
    assert_eq!(first_arguments(&[STORE_RBX, &elsewhere, LOAD_RDI, CALL]), [rbx]);
    assert_eq!(first_arguments(&[STORE_RBX, &elsewhere, half, LOAD_RDI, CALL]), [Value::Unknown]);
}

#[test]
fn a_word_put_on_the_stack_is_taken_from_it() {
    let (push_rbx, pop_rdi): (&[u8], &[u8]) = (&[0x53], &[0x5f]);
    let rbx = Value::Near(Register::RBX, 0);
    assert_eq!(first_arguments(&[push_rbx, pop_rdi, CALL]), [rbx]);
    assert_eq!(first_arguments(&[MOV_RDI_RBX, pop_rdi, CALL]), [Value::Loaded(Register::RSP, 0)]);
    let pop_rax: &[u8] = &[0x58];
    for push_unknown in [&[0x6a, 0x01][..], &[0x68, 1, 0, 0, 0], &[0xff, 0x73, 0x08]] {
        assert_eq!(first_arguments(&[push_unknown, pop_rdi, CALL]), [Value::Unknown]);
        assert_eq!(first_arguments(&[push_rbx, pop_rax, push_unknown, pop_rdi, CALL]), [Value::Unknown]);
        assert_eq!(first_arguments(&[push_rbx, push_unknown, pop_rax, pop_rdi, CALL]), [rbx]);
    }
    let lea_rdi_rsp: &[u8] = &[0x48, 0x8d, 0x3c, 0x24];
    assert_eq!(first_arguments(&[push_rbx, lea_rdi_rsp, CALL]), [Value::Near(Register::RSP, -8)]);
}
