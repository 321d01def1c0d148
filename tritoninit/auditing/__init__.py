"""What a model holds: measured, compared with what was asked for, and searched for mistakes.

In the order in which they build on each other:

- ``assignments``: what was done to a parameter.
- ``reading``: a tensor's elements, a piece at a time; ``overlap``: whether two tensors share memory.
- ``moments``: mean and standard deviation, measured and expected; ``fingerprint``: a hash of the bits.
- ``outliers``: elements that no draw explains; ``formulas``: whether numbers look drawn at all.
- ``records``: what an audit says, a tensor a record, and the table of them.
- ``findings``: what is wrong, and why it is a finding.
- ``replicas``: whether ranks that hold the same elements hold the same bits.
- ``report``: what an initialisation did, audited when asked.
"""
