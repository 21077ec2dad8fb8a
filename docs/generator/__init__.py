"""The generator of docs/reference: every option and flag, as the programs themselves read them."""
