# SPDX-License-Identifier: Apache-2.0
"""Mixed load through the SDK for a long time: right answers, no surprises, and nothing that only ever grows."""
