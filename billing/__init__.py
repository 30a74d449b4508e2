"""Money: customers, wallets, grants, holds and invoices. Knows nothing of tokens or models."""
