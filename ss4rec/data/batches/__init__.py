"""What training sees: windows of histories, their order, and packed batches."""
