"""Downloads over HTTP: limited in size and time, resumed where they break."""
