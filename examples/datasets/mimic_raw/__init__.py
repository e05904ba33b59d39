"""From MIMIC-IV's raw files to model inputs, in bounded memory.

**Who.** A visit is a hospital admission with known times. Of the patients in `patients.csv.gz` those are kept who were
at least 18 at their first visit and have more than one visit. A visit is dropped if it was at the time of death: the
patient died in hospital, or on the day of discharge or before. Patients must have a visit left, and in the visits
left at least one diagnosis, one numeric lab value and one discharge note.

**What.** The label is 1 if the patient died at most 365 days after the day of the last discharge among the visits left.
(MIMIC-IV knows deaths of a year after the last discharge, so no label is censored.)

**From what**, all of it from the visits left, and fitted to the training patients:

* code: the 1,000 most frequent categories of diagnoses, 0 or 1. A category is the first three characters of the code
  after the version: "9:428", "10:I50".
* lab: for the 200 items that most patients have, the latest value, the mean, and 1 where there is one. Values in
  another unit than the item's most frequent one are left out. Values are centered by the median and scaled by the
  interquartile range over 1.349, and cut off at 10; what was not measured is 0. Lab values without a visit (from
  outside the hospital) are not used.
* note: words of the discharge notes, hashed into 1,024 buckets; 1 + ln(count), times the inverse document frequency
  ln((1 + n) / (1 + n_with)) + 1, scaled to length 1. No language model is needed.

Patients are split 70 / 15 / 15 at random. `cohort.csv` says how many patients each rule removed.

NOTE[DIFF]: the paper's preparation was never released, and it ends with 9,003 patients. These rules keep many more.
"""
