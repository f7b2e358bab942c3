"""What the stages are fed: text of products, folds over queries, batches of word pieces."""
