-- One row: does anything differ from what the following statements set, and which schema revision is it?
select not (
         has_schema_privilege(%(login)s, 'public', 'USAGE') and has_schema_privilege(%(login)s, 'public', 'CREATE')
         and not exists (select from pg_namespace n, aclexplode(n.nspacl) a
                          where n.nspname = 'public' and a.grantee = 0)
         and not exists (select from pg_class c, pg_roles o
                          where c.relowner = o.oid and o.rolname = %(template_owner)s)
         and (%(artifact_root)s = ''
              or exists (select from pg_constraint
                          where conname = 'classroom_artifact_root'
                            and position(%(artifact_root)s || '/' in pg_get_constraintdef(oid)) > 0))
       ) as differs,
       (select version_num from alembic_version) as found
