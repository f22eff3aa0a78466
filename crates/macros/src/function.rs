//! The function that an attribute is on.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Signature, Visibility, braced};

/// An async function, whose body is kept as tokens. So an error within the body is reported by the
/// compiler alone, and the function keeps existing for the tools of an editor.
pub(crate) struct AsyncFunction {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) signature: Signature,
    pub(crate) body: TokenStream,
}

impl Parse for AsyncFunction {
    fn parse(input: ParseStream<'_>) -> syn::Result<AsyncFunction> {
        let mut attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        let signature = input.parse()?;
        let content;
        braced!(content in input);
        // Attributes within the body are of the function as well.
        for mut inner in content.call(Attribute::parse_inner)? {
            inner.style = syn::AttrStyle::Outer;
            attributes.push(inner);
        }
        Ok(AsyncFunction { attributes, visibility, signature, body: content.parse()? })
    }
}

impl AsyncFunction {
    /// Returns an error if the attribute cannot be on this function.
    pub(crate) fn check(&self, is_test: bool) -> syn::Result<()> {
        let Signature { asyncness, fn_token, ident, inputs, generics, .. } = &self.signature;
        if asyncness.is_none() {
            return Err(syn::Error::new_spanned(fn_token, "the function must be async: write `async fn`"));
        }
        if is_test && !generics.params.is_empty() {
            return Err(syn::Error::new_spanned(generics, "a test cannot be generic"));
        }
        if !inputs.is_empty() && is_test {
            return Err(syn::Error::new_spanned(inputs, "a test cannot have arguments"));
        }
        if !inputs.is_empty() && ident == "main" {
            return Err(syn::Error::new_spanned(inputs, "the function `main` cannot have arguments"));
        }
        if is_test && let Some(second) = self.attributes.iter().find(|attribute| attribute.path().is_ident("test")) {
            return Err(syn::Error::new_spanned(
                second,
                "the function has a second attribute `test`: it would be run twice",
            ));
        }
        Ok(())
    }

    /// Returns the span of the body's last statement, where the compiler reports a type that does
    /// not match that of the function.
    pub(crate) fn last_statement(&self) -> Span {
        let mut last = None;
        let mut is_start = true;
        for token in self.body.clone() {
            if is_start {
                last = Some(token.span());
            }
            is_start = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ';');
        }
        last.unwrap_or_else(|| self.signature.ident.span())
    }

    /// Returns a function of this name that the compiler does not complain about, for one that an
    /// attribute cannot be on.
    pub(crate) fn without_body(self) -> TokenStream {
        let AsyncFunction { visibility, signature: Signature { ident, .. }, .. } = self;
        quote::quote!(#[allow(dead_code)] #visibility fn #ident() {})
    }

    /// Returns the function as a plain one with another body.
    pub(crate) fn with_body(mut self, extra: TokenStream, body: TokenStream) -> TokenStream {
        self.signature.asyncness = None;
        let AsyncFunction { attributes, visibility, signature, .. } = self;
        let mut tokens = TokenStream::new();
        attributes.iter().for_each(|attribute| attribute.to_tokens(&mut tokens));
        tokens.extend(extra);
        visibility.to_tokens(&mut tokens);
        signature.to_tokens(&mut tokens);
        tokens.extend(quote::quote!({ #body }));
        tokens
    }
}
